//! The script that Node workers load ahead of their program, and how they come to load it.
//!
//! It lies in a file, since that is all every version of Node can load from, and is named in `NODE_OPTIONS`: so it
//! reaches the program through whatever starts it, in both of Node's module systems. Where it might keep a program
//! from starting it is left out. `preload.cjs` says what it does.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rustix::fs::{FlockOperation, OFlags, flock};
use rustix::io::Errno;
use rustix::process::{Pid, geteuid, test_kill_process};
use serde_json::json;

const SCRIPT: &str = include_str!("preload.cjs");

/// The script finds its settings here.
const SETTINGS: &str = "EVERYCORE_PRELOAD";

/// Attempts at a name that nobody has taken.
const NAMES: u32 = 100;

/// Tells several primaries in one process apart.
static NUMBER: AtomicU32 = AtomicU32::new(0);

/// The script's file, while there is one. It goes with the primary.
#[derive(Debug, Default)]
pub(in crate::cluster) struct Preload {
    /// For workers that run as this user, and for those that run as another: each where it can be read.
    files: [Option<Script>; 2],
    /// It could not be written: workers do without.
    failed: [bool; 2],
}

/// A file of ours, held open: so no other can be taken for it when something that tidies up has removed it.
#[derive(Debug)]
struct Script {
    path: PathBuf,
    file: File,
}

impl Script {
    /// Whether the path still leads to the file that was written.
    fn is_there(&self) -> bool {
        let same = |there: &fs::Metadata, ours: &fs::Metadata| {
            there.is_file() && (there.dev(), there.ino()) == (ours.dev(), ours.ino())
        };
        match (fs::symlink_metadata(&self.path), self.file.metadata()) {
            (Ok(there), Ok(ours)) => same(&there, &ours),
            _ => false,
        }
    }
}

impl Preload {
    /// The variables that have this program load the script, on top of `env`; none where it had better not.
    /// `everybody` is set when workers run as another user.
    ///
    /// # Errors
    /// The script's file cannot be written; told once only.
    pub(in crate::cluster) fn variables(
        &mut self,
        command: &[&OsStr],
        env: &[(OsString, OsString)],
        drain: Duration,
        everybody: bool,
    ) -> io::Result<Vec<(OsString, OsString)>> {
        let variable = match command.first().and_then(|program| Path::new(program).file_name()) {
            Some(name) if name == "bun" || name == "bunx" => "BUN_OPTIONS",
            _ => "NODE_OPTIONS",
        };
        let set = env.iter().rev().find(|(name, _)| name == variable).map(|(_, value)| value.clone());
        let before = set.or_else(|| std::env::var_os(variable));
        let place = usize::from(everybody);
        if self.failed[place] || !may_load(command, before.as_deref()) {
            return Ok(Vec::new());
        }
        let file = self.file(everybody).map(quoted);
        self.failed[place] = file.is_err();
        let file = file?;
        let settings = json!({
            "drain": u64::try_from(drain.as_millis()).unwrap_or(u64::MAX),
            "variable": variable,
            "before": before.as_ref().map(|before| before.to_string_lossy()),
        });
        let option = if variable == "BUN_OPTIONS" { "--preload" } else { "--require" };
        let mut options = OsString::from(option);
        options.push(" ");
        options.push(file);
        if let Some(before) = before {
            options.push(" ");
            options.push(before);
        }
        Ok(vec![(SETTINGS.into(), settings.to_string().into()), (variable.into(), options)])
    }

    /// The file, written anew if something that tidies up has removed it.
    fn file(&mut self, everybody: bool) -> io::Result<&Path> {
        let place = &mut self.files[usize::from(everybody)];
        let script = match place.take().filter(Script::is_there) {
            Some(script) => script,
            None => {
                let directory = directory(everybody)?;
                tidy(&directory);
                write(&directory, fill)?
            }
        };
        Ok(&place.insert(script).path)
    }
}

impl Drop for Preload {
    fn drop(&mut self) {
        for script in self.files.iter().flatten().filter(|script| script.is_there()) {
            let _ = fs::remove_file(&script.path);
        }
    }
}

/// Where files of running programs belong. Only this user may look there; where everybody is to, every directory on the
/// way has to let them.
fn directory(everybody: bool) -> io::Result<PathBuf> {
    if everybody {
        let common = std::env::temp_dir();
        return match barrier(&common)? {
            None => Ok(common),
            Some(closed) => Err(io::Error::new(
                io::ErrorKind::PermissionDenied,
                format!(
                    "the user that workers run as may not look into {}; set TMPDIR to a directory for all",
                    closed.display()
                ),
            )),
        };
    }
    let own = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    let own = own.filter(|own| own.is_absolute() && own.is_dir());
    Ok(own.unwrap_or_else(std::env::temp_dir))
}

/// The directory on this way that not everybody may pass.
fn barrier(directory: &Path) -> io::Result<Option<PathBuf>> {
    let real = fs::canonicalize(directory).map_err(|error| at(directory, &error))?;
    for step in real.ancestors() {
        if fs::metadata(step).map_err(|error| at(step, &error))?.mode() & 0o001 == 0 {
            return Ok(Some(step.to_owned()));
        }
    }
    Ok(None)
}

fn fill(file: &mut File) -> io::Result<()> {
    // Whatever the umask: workers may run as another user.
    file.set_permissions(fs::Permissions::from_mode(0o644))?;
    file.write_all(SCRIPT.as_bytes())
}

/// A new file of a name that nobody had: never one that was waiting there.
fn write(directory: &Path, fill: fn(&mut File) -> io::Result<()>) -> io::Result<Script> {
    let pid = std::process::id();
    let mut taken = io::Error::from(io::ErrorKind::AlreadyExists);
    for _ in 0..NAMES {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = directory.join(format!("everycore-{pid}-{number}.cjs"));
        match OpenOptions::new().write(true).create_new(true).mode(0o644).open(&path) {
            Ok(mut file) => {
                // Says that it is in use, also to those who cannot see this process; where there are no locks, its number does.
                let _ = flock(&file, FlockOperation::NonBlockingLockExclusive);
                if let Err(error) = fill(&mut file) {
                    // Nobody else knows of it.
                    let _ = fs::remove_file(&path);
                    return Err(at(&path, &error));
                }
                return Ok(Script { path, file });
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => taken = error,
            Err(error) => return Err(at(&path, &error)),
        }
    }
    Err(taken)
}

/// Removes what primaries of this user have left here that could not do so themselves: they were killed.
fn tidy(directory: &Path) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let path = entry.path();
        if name.to_str().and_then(maker).is_some_and(is_gone) && is_left_behind(&path) {
            let _ = fs::remove_file(&path);
        }
    }
}

/// By the name of a file: the number of the process that wrote it, and which of its files it is.
fn maker(name: &str) -> Option<(u32, u32)> {
    let (pid, number) = name.strip_prefix("everycore-")?.strip_suffix(".cjs")?.split_once('-')?;
    Some((pid.parse().ok()?, number.parse().ok()?))
}

fn is_gone((pid, number): (u32, u32)) -> bool {
    if pid == std::process::id() {
        // In a container everyone has the same number: one of this process's own was counted before it was written.
        return number >= NUMBER.load(Ordering::Relaxed);
    }
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    pid.is_some_and(|pid| test_kill_process(pid) == Err(Errno::SRCH))
}

/// Whether it is this user's own file, which nobody uses: another user's is none of our business.
fn is_left_behind(path: &Path) -> bool {
    let is_own = |there: &fs::Metadata| there.is_file() && there.uid() == geteuid().as_raw();
    if !fs::symlink_metadata(path).is_ok_and(|there| is_own(&there)) {
        return false;
    }
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
    let Ok(file) = OpenOptions::new().read(true).custom_flags(flags).open(path) else { return false };
    let is_free = flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok();
    is_free && Script { path: path.to_owned(), file }.is_there()
}

fn at(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

/// A runtime that restricts what programs read would refuse the script, and the program with it.
fn may_load(command: &[&OsStr], options: Option<&OsStr>) -> bool {
    let arguments = command.iter().skip(1).filter_map(|word| word.to_str());
    let name = command.first().and_then(|program| Path::new(program).file_name());
    if name.is_some_and(|name| name == "deno") {
        return arguments.into_iter().any(|word| word == "--allow-all" || is_short_with(word, 'A'));
    }
    let options = options.unwrap_or_default().to_string_lossy();
    let restricts = |word: &str| {
        word.starts_with("--permission")
            || word.starts_with("--experimental-permission")
            || word.starts_with("--experimental-policy")
    };
    !arguments.into_iter().any(restricts) && !options.split_whitespace().any(restricts)
}

/// Whether a word is short options, with this one among them.
fn is_short_with(word: &str, option: char) -> bool {
    word.strip_prefix('-').is_some_and(|letters| !letters.starts_with('-') && letters.contains(option))
}

/// As Node reads words in its variable: a space ends them, unless they are quoted.
fn quoted(file: &Path) -> OsString {
    let bytes = file.as_os_str().as_bytes();
    if !bytes.iter().any(|byte| matches!(byte, b' ' | b'"' | b'\\')) {
        return file.as_os_str().to_owned();
    }
    let mut quoted = vec![b'"'];
    for byte in bytes {
        if matches!(byte, b'"' | b'\\') {
            quoted.push(b'\\');
        }
        quoted.push(*byte);
    }
    quoted.push(b'"');
    OsString::from_vec(quoted)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loads(words: &[&str], options: Option<&str>) -> bool {
        let words: Vec<&OsStr> = words.iter().map(OsStr::new).collect();
        may_load(&words, options.map(OsStr::new))
    }

    #[test]
    fn a_runtime_that_restricts_its_program_is_left_alone() {
        assert!(loads(&["node", "server.js"], None));
        assert!(loads(&["node", "server.js"], Some("--max-old-space-size=100")));
        assert!(!loads(&["node", "--permission", "server.js"], None));
        assert!(!loads(&["node", "server.js"], Some("--experimental-permission")));
        assert!(loads(&["/usr/bin/deno", "run", "-A", "server.ts"], None));
        assert!(loads(&["deno", "run", "-qA", "server.ts"], None));
        assert!(!loads(&["deno", "run", "--allow-net", "server.ts"], None));
    }

    #[test]
    fn what_was_set_before_comes_after_and_is_told() {
        let mut preload = Preload::default();
        let env = [("NODE_OPTIONS".into(), "--no-warnings".into())];
        let command = [OsStr::new("node"), OsStr::new("server.js")];
        let set = preload.variables(&command, &env, Duration::from_secs(8), false).unwrap();
        let path_of = |preload: &Preload| preload.files[0].as_ref().unwrap().path.clone();
        let file = path_of(&preload);
        assert_eq!(set[0].1, r#"{"before":"--no-warnings","drain":8000,"variable":"NODE_OPTIONS"}"#);
        assert_eq!(set[1].1, OsString::from(format!("--require {} --no-warnings", file.display())));
        assert_eq!(fs::read_to_string(&file).unwrap(), SCRIPT);
        fs::remove_file(&file).unwrap();
        fs::write(&file, "another one's").unwrap();
        preload.variables(&command, &env, Duration::ZERO, false).unwrap();
        let again = path_of(&preload);
        assert_ne!(again, file, "what took the place of a file that was tidied away is not loaded");
        assert_eq!(fs::read_to_string(&again).unwrap(), SCRIPT);
        drop(preload);
        assert!(!again.exists());
        fs::remove_file(&file).unwrap();
    }

    /// An empty directory of this test's own.
    fn scratch(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("everycore-preload-{}-{name}", std::process::id()));
        fs::create_dir(&path).unwrap();
        path
    }

    #[test]
    fn a_file_that_cannot_be_filled_does_not_stay() {
        let directory = scratch("full");
        let error = write(&directory, |_| Err(io::ErrorKind::StorageFull.into())).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        assert_eq!(fs::read_dir(&directory).unwrap().count(), 0, "{error}");
        fs::remove_dir(&directory).unwrap();
    }

    #[test]
    fn what_killed_primaries_left_is_removed_and_nothing_else() {
        /// Larger than the kernel's largest.
        const DEAD: u32 = 5_000_000;
        let directory = scratch("tidy");
        let path = |pid: u32, number: u32| directory.join(format!("everycore-{pid}-{number}.cjs"));
        let put = |path: PathBuf| {
            fs::write(&path, "old").unwrap();
            path
        };
        let own = std::process::id();
        let gone = [put(path(DEAD, 0)), put(path(DEAD, 7)), put(path(own, u32::MAX))];
        let used = write(&directory, fill).unwrap();
        // Its maker cannot be seen from here.
        let elsewhere = put(path(DEAD, 1));
        let lock = File::open(&elsewhere).unwrap();
        flock(&lock, FlockOperation::LockExclusive).unwrap();
        let target = put(directory.join("target"));
        std::os::unix::fs::symlink(&target, path(DEAD, 2)).unwrap();
        fs::create_dir(path(DEAD, 3)).unwrap();
        let kept = [
            used.path.clone(),
            elsewhere,
            target,
            path(DEAD, 2),
            path(DEAD, 3),
            put(path(std::os::unix::process::parent_id(), 0)),
            put(directory.join(format!("everycore-{DEAD}.cjs"))),
            put(directory.join(format!("everycore-{DEAD}-x.cjs"))),
            put(directory.join(format!("other-{DEAD}-0.cjs"))),
        ];
        tidy(&directory);
        assert!(gone.iter().all(|path| !path.exists()), "{gone:?}");
        assert!(kept.iter().all(|path| fs::symlink_metadata(path).is_ok()), "{kept:?}");
        fs::remove_dir_all(&directory).unwrap();
    }

    #[test]
    fn one_that_could_not_be_written_is_not_tried_for_every_worker() {
        let mut preload = Preload::default();
        preload.failed[0] = true;
        let command = [OsStr::new("node"), OsStr::new("server.js")];
        assert!(preload.variables(&command, &[], Duration::ZERO, false).unwrap().is_empty());
        assert!(preload.files[0].is_none());
    }

    #[test]
    fn a_private_directory_is_none_for_the_workers_of_another_user() {
        let outer = scratch("private");
        let inner = outer.join("inner");
        fs::create_dir(&inner).unwrap();
        let mode = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        mode(&inner, 0o755);
        mode(&outer, 0o700);
        let real = fs::canonicalize(&outer).unwrap();
        assert_eq!(barrier(&inner).unwrap(), Some(real.clone()));
        mode(&outer, 0o711);
        assert!(barrier(&inner).unwrap().is_none_or(|closed| real.starts_with(&closed) && closed != real));
        mode(&inner, 0o700);
        assert_eq!(barrier(&inner).unwrap(), Some(real.join("inner")));
        fs::remove_dir_all(&outer).unwrap();
    }

    #[test]
    fn a_path_with_spaces_is_quoted() {
        assert_eq!(quoted(Path::new("/tmp/x.cjs")), "/tmp/x.cjs");
        assert_eq!(quoted(Path::new(r#"/a b/"c"\d"#)), r#""/a b/\"c\"\\d""#);
    }
}
