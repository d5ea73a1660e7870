//! A script of `package.json`, which is a line for a shell: taken apart where it is one plain command. Pure.

/// One plain command.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Script {
    /// Variables set in front of it.
    pub(super) env: Vec<(String, String)>,
    pub(super) words: Vec<String>,
}

/// Why a script is not one plain command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Unclear {
    /// There is nothing in it.
    Empty,
    /// Several commands, one after the other; the last of them as it stands there.
    Several { last: String },
    /// Only a shell knows what it means.
    Shell,
}

/// A word, or what stands between commands.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    Word(String),
    /// `&&` or `;`, with where it begins and ends in the line.
    Then(usize, usize),
}

impl Script {
    pub(super) fn parse(text: &str) -> Result<Self, Unclear> {
        let tokens = tokens(text)?;
        let is_then = |token: &Token| matches!(token, Token::Then(..));
        let mut commands = tokens.split(is_then).filter(|command| !command.is_empty());
        let script = Self::of(commands.next().ok_or(Unclear::Empty)?);
        if commands.next().is_some() {
            return Err(Unclear::Several { last: last_command(text, &tokens).to_owned() });
        }
        if script.words.is_empty() { Err(Unclear::Empty) } else { Ok(script) }
    }

    /// Takes variables off the front; `cross-env` does the same for shells that cannot.
    fn of(command: &[Token]) -> Self {
        let mut script = Self::default();
        for token in command {
            let Token::Word(word) = token else { continue };
            match assignment(word).filter(|_| script.words.is_empty()) {
                Some(set) => script.env.push(set),
                None if word == "cross-env" && script.words.is_empty() => {}
                None => script.words.push(word.clone()),
            }
        }
        // What a shell would do by itself.
        if script.words.first().is_some_and(|first| first == "exec") {
            script.words.remove(0);
        }
        script
    }
}

/// The last command of several, as it stands in the line.
fn last_command<'a>(text: &'a str, tokens: &[Token]) -> &'a str {
    let mut end = text.len();
    for token in tokens.iter().rev() {
        let Token::Then(begins, ends) = *token else { continue };
        let command = text[ends..end].trim();
        if !command.is_empty() {
            return command;
        }
        end = begins;
    }
    text[..end].trim()
}

fn assignment(word: &str) -> Option<(String, String)> {
    let (name, value) = word.split_once('=')?;
    let mut letters = name.chars();
    let fits = letters.next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_')
        && letters.all(|c| c.is_ascii_alphanumeric() || c == '_');
    fits.then(|| (name.to_owned(), value.to_owned()))
}

/// Takes a line apart as a shell does, where it has no more than words, quotes and one command after the other.
fn tokens(text: &str) -> Result<Vec<Token>, Unclear> {
    let mut tokens = Vec::new();
    let mut word: Option<String> = None;
    let mut letters = text.char_indices().peekable();
    while let Some((at, letter)) = letters.next() {
        match letter {
            ' ' | '\t' | '\n' => tokens.extend(word.take().map(Token::Word)),
            ';' => {
                tokens.extend(word.take().map(Token::Word));
                tokens.push(Token::Then(at, at + 1));
            }
            '&' if letters.next_if(|(_, next)| *next == '&').is_some() => {
                tokens.extend(word.take().map(Token::Word));
                tokens.push(Token::Then(at, at + 2));
            }
            '\'' => quoted(&mut letters, '\'', word.get_or_insert_default())?,
            '"' => quoted(&mut letters, '"', word.get_or_insert_default())?,
            '\\' => word.get_or_insert_default().push(letters.next().ok_or(Unclear::Shell)?.1),
            '&' | '|' | '<' | '>' | '(' | ')' | '$' | '`' | '*' | '?' | '[' | '!' | '~' | '#' | '{' | '}' => {
                return Err(Unclear::Shell);
            }
            other => word.get_or_insert_default().push(other),
        }
    }
    tokens.extend(word.map(Token::Word));
    Ok(tokens)
}

/// Up to the closing quote. What a shell would replace within double quotes is not ours to know.
fn quoted(
    letters: &mut impl Iterator<Item = (usize, char)>,
    quote: char,
    word: &mut String,
) -> Result<(), Unclear> {
    while let Some((_, letter)) = letters.next() {
        match letter {
            letter if letter == quote => return Ok(()),
            '$' | '`' if quote == '"' => return Err(Unclear::Shell),
            '\\' if quote == '"' => match letters.next().ok_or(Unclear::Shell)?.1 {
                '\n' => {}
                special @ ('$' | '`' | '"' | '\\') => word.push(special),
                // In front of anything else it stands for itself.
                other => word.extend(['\\', other]),
            },
            letter => word.push(letter),
        }
    }
    Err(Unclear::Shell)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        Script::parse(text).unwrap().words
    }

    #[test]
    fn a_plain_command_is_taken_apart() {
        assert_eq!(words("node server.js"), ["node", "server.js"]);
        assert_eq!(
            words("  node  --title='my app' \"a b\" c\\ d ''"),
            ["node", "--title=my app", "a b", "c d", ""]
        );
        assert_eq!(words("exec node ."), ["node", "."]);
        assert_eq!(words(r#"node "a\.b\"c\\d""#), ["node", r#"a\.b"c\d"#]);
        assert_eq!(words("node --env=x server.js"), ["node", "--env=x", "server.js"]);
    }

    #[test]
    fn variables_in_front_are_set() {
        let script = Script::parse("NODE_ENV=production cross-env PORT=80 node server.js A=b").unwrap();
        let env = [("NODE_ENV".to_owned(), "production".to_owned()), ("PORT".to_owned(), "80".to_owned())];
        assert_eq!((script.env.as_slice(), script.words.join(" ")), (&env[..], "node server.js A=b".into()));
    }

    #[test]
    fn of_several_commands_the_last_is_named() {
        let several = |last: &str| Err(Unclear::Several { last: last.into() });
        assert_eq!(Script::parse("tsc -p . && node dist/server.js"), several("node dist/server.js"));
        assert_eq!(Script::parse("mkdir x; node a.js;"), several("node a.js"));
        assert_eq!(Script::parse("mkdir x && node 'a;b.js'"), several("node 'a;b.js'"));
    }

    #[test]
    fn what_only_a_shell_knows_is_left_to_it() {
        for text in
            ["node $APP", "node \"$APP\"", "node a.js | pino", "node *.js", "node a &", "a || b", "'x", "(a)"]
        {
            assert_eq!(Script::parse(text), Err(Unclear::Shell), "{text}");
        }
        assert_eq!(words("node '$APP'"), ["node", "$APP"]);
        for text in ["", "  ", ";", "A=b"] {
            assert_eq!(Script::parse(text), Err(Unclear::Empty), "{text}");
        }
    }
}
