//! Variables from a file, one `NAME=VALUE` in a line.
//!
//! Lines that are empty or begin with `#` say nothing, `export` in front is allowed, and a value in quotes is what is
//! between them. Nothing is expanded: no shell reads it.

use std::path::Path;

use crate::args::value::Variable;
use crate::exit::{Code, Failure};

/// Reads a file.
pub(crate) fn read(path: &Path) -> Result<Vec<Variable>, Failure> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| Failure::usage(format!("--env-file {}: {error}", path.display())))?;
    parse(&text).map_err(|(line, problem)| {
        Failure::new(Code::Config, format!("{}:{line}: {problem}", path.display()))
    })
}

/// The variables of a text, or the number of the line that is wrong and what is wrong with it.
fn parse(text: &str) -> Result<Vec<Variable>, (usize, String)> {
    let mut variables = Vec::new();
    for (line, number) in text.lines().zip(1..) {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let line = line.strip_prefix("export ").unwrap_or(line).trim_start();
        let (name, value) = line.split_once('=').ok_or_else(|| (number, "write NAME=VALUE".to_owned()))?;
        let name = name.trim_end();
        if name.is_empty() || name.contains(char::is_whitespace) {
            return Err((number, format!("'{name}' cannot be the name of a variable")));
        }
        let value = unquoted(value.trim()).map_err(|problem| (number, problem))?;
        variables.push(Variable { name: name.into(), value: value.into() });
    }
    Ok(variables)
}

fn unquoted(value: &str) -> Result<&str, String> {
    let Some(quote) = value.chars().next().filter(|first| matches!(first, '"' | '\'')) else {
        return Ok(value);
    };
    let rest = &value[1..];
    rest.strip_suffix(quote).ok_or_else(|| format!("the value begins with {quote} and does not end with it"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_become_variables() {
        let text = "# ours\n\nA=1\nexport B = two words \nC='#3'\nD=\"a=b\"\nE=\n";
        let read = parse(text).unwrap();
        let read: Vec<_> =
            read.iter().map(|v| (v.name.to_str().unwrap(), v.value.to_str().unwrap())).collect();
        assert_eq!(read, [("A", "1"), ("B", "two words"), ("C", "#3"), ("D", "a=b"), ("E", "")]);
    }

    #[test]
    fn a_wrong_line_is_named() {
        for (text, line, part) in [
            ("A=1\nB\n", 2, "NAME=VALUE"),
            ("=1", 1, "''"),
            ("a b=1", 1, "'a b'"),
            ("A='x", 1, "does not end"),
        ] {
            let (number, problem) = parse(text).unwrap_err();
            assert!(number == line && problem.contains(part), "{number}: {problem}");
        }
    }
}
