//! What `npm start`, `npm run x`, `npx y`, `yarn x` and their like would start in the end.
//!
//! A package manager starts the program in a process below its own, where no channel of ours leads: so it is the
//! program that is run, or the command to type instead is named. Only files are read; nothing is executed.

mod manifest;
mod script;

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use crate::exit::Failure;
use manifest::Manifest;
use script::{Script, Unclear};

/// Scripts that call scripts, at most so deep.
const DEPTH: usize = 8;

/// A command as a package manager would carry it out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Resolved {
    /// The program and its arguments.
    pub(crate) command: Vec<OsString>,
    /// Set in front of the script's command, and what package managers set.
    pub(crate) env: Vec<(OsString, OsString)>,
    /// The package's directory: scripts run there.
    pub(crate) cwd: Option<PathBuf>,
    /// The package's name.
    pub(crate) name: Option<String>,
    /// What people should know.
    pub(crate) notes: Vec<String>,
}

/// What a package manager was told to do.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Wish {
    /// A script of `package.json`, with further arguments.
    Script(String, Vec<OsString>),
    /// A program a package brings.
    Program(String, Vec<OsString>),
    /// Nothing that could be a server.
    Other,
}

/// Finds the program behind a package manager's command, from this directory. `None`: it is no such command.
///
/// # Errors
/// A usage error, with what to type instead as far as that can be told.
pub(crate) fn resolve(words: &[OsString], from: &Path) -> Result<Option<Resolved>, Failure> {
    let Some((manager, wish)) = wish(words, from) else {
        return match words.split_first().and_then(|(first, args)| refuse_launcher(first, args)) {
            Some(failure) => Err(failure),
            None => Ok(None),
        };
    };
    let mut resolved = Resolved::default();
    resolved.follow(&manager, wish, from, DEPTH)?;
    Ok(Some(resolved))
}

impl Resolved {
    fn follow(&mut self, manager: &str, wish: Wish, from: &Path, depth: usize) -> Result<(), Failure> {
        match wish {
            Wish::Other => Err(Failure::usage(format!(
                "'{manager}' starts programs below itself, where no connection can be handed to them; type the program itself: everycore run -- node server.js"
            ))),
            Wish::Script(name, args) => self.script(manager, &name, args, from, depth),
            Wish::Program(name, args) => self.program(manager, &name, args, from),
        }
    }

    fn script(
        &mut self,
        manager: &str,
        name: &str,
        args: Vec<OsString>,
        from: &Path,
        depth: usize,
    ) -> Result<(), Failure> {
        let package = Manifest::find(from)
            .map_err(Failure::usage)?
            .ok_or_else(|| Failure::usage(format!("{manager}: there is no package.json here or above")))?;
        let Some(text) = package.script(name) else {
            let known = package.script_names();
            return Err(Failure::usage(match known.is_empty() {
                true => format!("{} has no scripts; type the program itself", package.shown()),
                false => {
                    format!("{} has no script '{name}'; there are {}", package.shown(), known.join(", "))
                }
            }));
        };
        self.adopt(&package, name);
        let script = Script::parse(&text).map_err(|unclear| refuse(&package, name, &text, unclear))?;
        self.env.extend(script.env.iter().map(|(name, value)| (name.into(), value.into())));
        let mut words: Vec<OsString> = script.words.iter().map(Into::into).collect();
        words.extend(args);
        let depth = depth.checked_sub(1).ok_or_else(|| {
            Failure::usage(format!("script '{name}' of {} calls itself in the end", package.shown()))
        })?;
        if let Some((manager, wish)) = wish(&words, &package.directory) {
            return self.follow(&manager, wish, &package.directory, depth);
        }
        let first = script.words.first().map(String::as_str).unwrap_or_default();
        if let Some(instead) = launcher(first, &words[1..]) {
            return Err(Failure::usage(format!(
                "script '{name}' of {} starts its program with {first}, below which no connection can be handed to it; type: {instead}",
                package.shown()
            )));
        }
        // A script finds the programs of the package's dependencies by their names.
        if !first.contains('/')
            && let Some(file) = package.program(first)
        {
            words[0] = file.into();
        }
        self.command = words;
        Ok(())
    }

    fn program(
        &mut self,
        manager: &str,
        name: &str,
        args: Vec<OsString>,
        from: &Path,
    ) -> Result<(), Failure> {
        if let Some(instead) = launcher(name, &args) {
            return Err(starts_below(name, &instead));
        }
        let found = Manifest::find(from).map_err(Failure::usage)?.and_then(|package| package.program(name));
        let file = found.ok_or_else(|| {
            Failure::usage(format!(
                "{manager} would fetch '{name}', which is not among the packages installed here; install it first: npm install {name}"
            ))
        })?;
        self.command = std::iter::once(file.into_os_string()).chain(args).collect();
        Ok(())
    }

    /// What a script finds around it.
    fn adopt(&mut self, package: &Manifest, script: &str) {
        self.cwd = Some(package.directory.clone());
        self.name = self.name.take().or_else(|| package.name());
        let mut set = |name: &str, value: String| self.env.push((name.into(), value.into()));
        set("npm_lifecycle_event", script.to_owned());
        set("npm_package_json", package.file().display().to_string());
        if let Some(name) = package.name() {
            set("npm_package_name", name);
        }
        if let Some(version) = package.version() {
            set("npm_package_version", version);
        }
        for beside in [format!("pre{script}"), format!("post{script}")] {
            if package.script(&beside).is_some() {
                self.notes.push(format!("script '{beside}' of {} is not run", package.shown()));
            }
        }
    }
}

/// Why a script is not simply a program, and what to type.
fn refuse(package: &Manifest, name: &str, text: &str, unclear: Unclear) -> Failure {
    let place = package.shown();
    Failure::usage(match unclear {
        Unclear::Empty => format!("script '{name}' of {place} is empty"),
        Unclear::Several { last } => format!(
            "script '{name}' of {place} does several things ({text}); do the others first, then type: everycore run -- {last}"
        ),
        Unclear::Shell => format!(
            "script '{name}' of {place} needs a shell ({text}); type the program that serves: everycore run -- node server.js"
        ),
    })
}

fn starts_below(name: &str, instead: &str) -> Failure {
    Failure::usage(format!(
        "{name} starts its program below itself, where no connection can be handed to it; type: {instead}"
    ))
}

/// A launcher that was typed itself. Only those that nothing but Node has: others share their names with tools that
/// replace themselves by what they start.
fn refuse_launcher(program: &OsStr, args: &[OsString]) -> Option<Failure> {
    const NODES_ALONE: [&str; 8] =
        ["nodemon", "node-dev", "tsx", "ts-node-dev", "tsnd", "pm2", "pm2-runtime", "pm2-dev"];
    let name = Path::new(program).file_name()?.to_str()?;
    let instead = launcher(name, args).filter(|_| NODES_ALONE.contains(&name))?;
    Some(starts_below(name, &instead))
}

/// Programs that start others and stay above them; what to type instead.
fn launcher(name: &str, args: &[OsString]) -> Option<String> {
    let script = script_among(args).unwrap_or_else(|| "server.js".into());
    let name = Path::new(name).file_name()?.to_str()?;
    match name {
        "nodemon" | "node-dev" | "supervisor" | "forever" => Some(format!("everycore run -- node {script}")),
        "tsx" | "ts-node-dev" | "tsnd" => Some(format!("everycore run -- node --import tsx {script}")),
        "pm2" | "pm2-runtime" | "pm2-dev" | "concurrently" | "npm-run-all" | "npm-run-all2" | "run-s"
        | "run-p" | "dotenv" | "env-cmd" => Some(format!("everycore run -- node {script}")),
        _ => None,
    }
}

/// The word that names a script: values of options, which stand among them, seldom end like one.
fn script_among(args: &[OsString]) -> Option<String> {
    const ENDINGS: [&str; 8] = ["js", "mjs", "cjs", "jsx", "ts", "mts", "cts", "tsx"];
    let names_one = |word: &&OsString| {
        let ending = Path::new(word).extension().and_then(OsStr::to_str);
        !is_flag(word) && ending.is_some_and(|ending| ENDINGS.contains(&ending))
    };
    args.iter().find(names_one).map(|word| word.to_string_lossy().into_owned())
}

/// What the words tell which package manager to do; `None` if they name none.
fn wish(words: &[OsString], from: &Path) -> Option<(String, Wish)> {
    let (program, rest) = words.split_first()?;
    let manager = Path::new(program).file_name()?.to_str()?.to_owned();
    let rest: Vec<&OsStr> = rest.iter().map(OsString::as_os_str).collect();
    let wish = match manager.as_str() {
        "npm" | "pnpm" | "yarn" | "yarnpkg" => of_manager(&manager, &rest),
        "npx" | "pnpx" | "bunx" => program_in(&rest),
        "bun" => return of_bun(&rest, from).map(|wish| (manager, wish)),
        "deno" if rest.first().is_some_and(|word| *word == "task") => Wish::Other,
        _ => return None,
    };
    Some((manager, wish))
}

/// `npm start`, `npm run x -- args`, `yarn x args`, `pnpm exec y`.
fn of_manager(manager: &str, rest: &[&OsStr]) -> Wish {
    let Some((verb, rest)) = first_word(rest) else { return Wish::Other };
    match verb {
        "run" | "run-script" | "rum" | "urn" => match first_word(rest) {
            Some((name, rest)) => script_with(manager, name, rest),
            None => Wish::Other,
        },
        "start" | "test" | "stop" | "restart" => script_with(manager, verb, rest),
        "exec" | "x" => program_in(rest),
        // What is no command of its own is a script.
        name if manager != "npm" && !YARNS_OWN.contains(&name) => script_with(manager, name, rest),
        _ => Wish::Other,
    }
}

/// Flags of package managers that change what they say and not what they start.
const HARMLESS: [&str; 7] =
    ["-s", "--silent", "-q", "--quiet", "--verbose", "--loglevel=silent", "--if-present"];

/// The first word behind flags that change nothing, and what follows it. A flag that might, such as one that names
/// another package, is not for us to follow.
fn first_word<'a, 'b>(words: &'b [&'a OsStr]) -> Option<(&'a str, &'b [&'a OsStr])> {
    let at = words.iter().position(|word| !is_harmless(word))?;
    let word = words[at].to_str().filter(|word| !word.starts_with('-'))?;
    Some((word, &words[at + 1..]))
}

fn is_harmless(word: &OsStr) -> bool {
    word.to_str().is_some_and(|word| HARMLESS.contains(&word))
}

/// A script with what is passed on to it: with npm that is words, and all that stands behind `--`.
fn script_with(manager: &str, name: &str, rest: &[&OsStr]) -> Wish {
    let (before, behind) = match rest.iter().position(|word| *word == "--") {
        Some(at) => (&rest[..at], &rest[at + 1..]),
        None => (rest, &rest[rest.len()..]),
    };
    let takes_flags = manager == "npm";
    if takes_flags && before.iter().any(|word| is_flag(word) && !is_harmless(word)) {
        return Wish::Other;
    }
    let before = before.iter().filter(|word| !(takes_flags && is_flag(word)));
    let args = before.chain(behind).map(|&word| word.to_owned()).collect();
    Wish::Script(name.to_owned(), args)
}

/// Commands of yarn and pnpm that people may type here, and that start nothing that serves.
const YARNS_OWN: [&str; 12] =
    ["add", "audit", "ci", "create", "dlx", "i", "init", "install", "publish", "remove", "up", "update"];

/// `bun run x`, `bun start`, `bun x y`; not `bun server.ts`, nor a file of a script's name.
fn of_bun(rest: &[&OsStr], from: &Path) -> Option<Wish> {
    let (verb, after) = rest.split_first()?;
    let (name, after) = match verb.to_str()? {
        "x" => return Some(program_in(after)),
        "run" => {
            let (name, after) = after.split_first()?;
            (name.to_str()?, after)
        }
        name => (name, after),
    };
    let package = Manifest::find(from).ok().flatten()?;
    package.script(name)?;
    Some(Wish::Script(name.to_owned(), after.iter().map(|&word| word.to_owned()).collect()))
}

/// `npx [flags] y args`
fn program_in(rest: &[&OsStr]) -> Wish {
    let mut rest = rest.iter().copied();
    for word in rest.by_ref() {
        match word.to_str() {
            Some("--" | "-y" | "--yes" | "--no" | "--no-install" | "-q" | "--quiet" | "--bun") => {}
            Some(name) if !name.starts_with('-') && !name.is_empty() => {
                let args: Vec<OsString> = rest.map(OsStr::to_owned).collect();
                // A version chooses among what could be fetched.
                let plain = name.rfind('@').filter(|at| *at > 0).map_or(name, |at| &name[..at]);
                return Wish::Program(plain.to_owned(), args);
            }
            _ => return Wish::Other,
        }
    }
    Wish::Other
}

fn is_flag(word: &OsStr) -> bool {
    word.as_encoded_bytes().starts_with(b"-")
}

#[cfg(test)]
mod tests;
