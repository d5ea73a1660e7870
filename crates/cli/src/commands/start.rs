//! `start`, which does not exist: answered with what to type instead. Pure.

use crate::exit::Failure;

/// Refuses, with the `run …` that means the same.
pub(crate) fn refuse(words: &[String]) -> Failure {
    let instead = match as_run(words) {
        Some(run) => run,
        None => "everycore run -- CMD…".into(),
    };
    Failure::usage(format!(
        "there is no 'start': everycore stays in the foreground, and a service manager or container puts it into the background; type: {instead}"
    ))
}

/// The same wish in our words, as far as it is understood.
fn as_run(words: &[String]) -> Option<String> {
    let mut flags = String::new();
    let mut program: Option<&str> = None;
    let mut rest = Vec::new();
    let mut words = words.iter().map(String::as_str);
    while let Some(word) = words.next() {
        match word {
            "-i" | "--instances" => flags = format!("{flags} -w {}", words.next()?.replace("max", "auto")),
            "-n" | "--name" => flags = format!("{flags} -n {}", quoted(words.next()?)),
            "--" => rest.extend(words.by_ref()),
            word if word.starts_with('-') => {}
            word if program.is_none() => program = Some(word),
            word => rest.push(word),
        }
    }
    let program = program?;
    let interpreter = match program.rsplit_once('.') {
        Some((_, "js" | "mjs" | "cjs")) => "node ",
        Some((_, "py")) => "python3 ",
        _ => "",
    };
    let rest: String = rest.iter().map(|word| format!(" {}", quoted(word))).collect();
    Some(format!("everycore run{flags} -- {interpreter}{}{rest}", quoted(program)))
}

/// A word as a shell reads it.
pub(super) fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=@,+%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.into()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn instead(words: &[&str]) -> Option<String> {
        as_run(&words.iter().map(|word| (*word).to_string()).collect::<Vec<_>>())
    }

    #[test]
    fn habits_become_run() {
        assert_eq!(instead(&["server.js", "-i", "max"]).unwrap(), "everycore run -w auto -- node server.js");
        assert_eq!(
            instead(&["app.py", "--name", "my app", "--watch", "--", "-p", "80"]).unwrap(),
            "everycore run -n 'my app' -- python3 app.py -p 80"
        );
        assert_eq!(instead(&["./server", "it's"]).unwrap(), r"everycore run -- ./server 'it'\''s'");
        assert_eq!(instead(&[]), None);
        assert_eq!(instead(&["-i"]), None);
    }
}
