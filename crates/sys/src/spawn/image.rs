//! The strings a program starts with, as the kernel wants them: prepared by the parent, patched by the child.

use std::ffi::{CStr, CString, OsStr};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use super::child::Report;
use super::{Spawn, SpawnError, Step};

/// Where programs are looked for when the environment has no `PATH`.
const DEFAULT_PATH: &[u8] = b"/bin:/usr/bin";

/// Digits of the largest process id, and the byte that ends a string.
const PID_ROOM: usize = 11;

/// Candidate paths, arguments and environment, as strings that end in a zero byte.
pub(super) struct Image {
    /// Tried in this order.
    candidates: Vec<CString>,
    args: Vec<CString>,
    env: Vec<Vec<u8>>,
    /// Index into `env` and offset of the digits, for each variable that is to hold the child's pid.
    pids: Vec<(usize, usize)>,
}

/// What the child reads: null-terminated arrays of pointers into an [`Image`], and the places to write its pid to.
pub(super) struct Pointers {
    pub(super) candidates: Vec<*const libc::c_char>,
    pub(super) args: Vec<*const libc::c_char>,
    pub(super) env: Vec<*const libc::c_char>,
    pub(super) pids: Vec<*mut u8>,
}

impl Image {
    pub(super) fn new(program: &Spawn<'_>) -> Result<Self, SpawnError> {
        let arg0 = program.arg0.as_ref().unwrap_or(&program.program);
        let args = std::iter::once(arg0).chain(&program.args).map(|arg| c_string(arg));
        let mut image = Self {
            candidates: candidates(program)?,
            args: args.collect::<Result<_, _>>()?,
            env: Vec::with_capacity(program.env.len() + 1),
            pids: Vec::new(),
        };
        let own_pid = program.listen_pid.then_some(OsStr::new("LISTEN_PID"));
        for (name, value) in &program.env {
            if own_pid != Some(name.as_os_str()) {
                image.push_variable(name, value)?;
            }
        }
        if let Some(name) = own_pid {
            image.push_pid_variable(name)?;
        }
        Ok(image)
    }

    /// The pointers are good as long as the image is neither changed nor moved out of.
    pub(super) fn pointers(&mut self) -> Pointers {
        let pids = self.pids.iter();
        let pids = pids.map(|&(index, offset)| self.env[index].as_mut_ptr().wrapping_add(offset)).collect();
        let strings = |list: &[CString]| list.iter().map(|string| string.as_ptr()).collect::<Vec<_>>();
        let mut pointers = Pointers {
            candidates: strings(&self.candidates),
            args: strings(&self.args),
            // Through the mutable pointer, as some of these strings are written to later.
            env: self.env.iter_mut().map(|string| string.as_mut_ptr().cast_const().cast()).collect(),
            pids,
        };
        pointers.args.push(std::ptr::null());
        pointers.env.push(std::ptr::null());
        pointers
    }

    /// What a failed execution means, which takes a look at the files.
    pub(super) fn execute_error(&self, program: &Spawn<'_>, report: Report) -> SpawnError {
        let tried =
            self.candidates.get(report.candidate).map(|path| full_path(program, path)).unwrap_or_default();
        match report.errno {
            libc::ENOENT | libc::ENOTDIR => {
                let paths = self.candidates.iter().map(|path| full_path(program, path));
                match paths.into_iter().find(|path| path.is_file()) {
                    Some(path) => SpawnError::not_executable(&path, libc::ENOENT),
                    None => SpawnError::NotFound { program: program.program.clone() },
                }
            }
            libc::EACCES | libc::ENOEXEC | libc::EPERM | libc::ELIBBAD | libc::EISDIR | libc::ETXTBSY => {
                SpawnError::not_executable(&tried, report.errno)
            }
            errno => SpawnError::Step { step: Step::Execute, errno },
        }
    }

    fn push_variable(&mut self, name: &OsStr, value: &OsStr) -> Result<(), SpawnError> {
        check_name(name)?;
        let text = [name.as_bytes(), b"=", value.as_bytes()].concat();
        let text = CString::new(text).map_err(|_| invalid())?;
        self.env.push(text.into_bytes_with_nul());
        Ok(())
    }

    fn push_pid_variable(&mut self, name: &OsStr) -> Result<(), SpawnError> {
        self.push_variable(name, OsStr::new(""))?;
        let index = self.env.len() - 1;
        // "NAME=" and its zero byte: the digits go where that is.
        let offset = self.env[index].len() - 1;
        self.env[index].resize(offset + PID_ROOM, 0);
        self.pids.push((index, offset));
        Ok(())
    }
}

/// Writes a process id in decimal, with the byte that ends it. For the child: nothing in here can fail.
pub(super) fn write_pid(mut at: *mut u8, pid: u32) {
    let mut place = 1_000_000_000;
    while place > 1 && pid < place {
        place /= 10;
    }
    while place > 0 {
        let digit = (pid / place % 10) as u8;
        // SAFETY: `at` is one of `Pointers::pids`, which have PID_ROOM bytes: ten digits at most and the zero below.
        unsafe { at.write(b'0' + digit) };
        at = at.wrapping_add(1);
        place /= 10;
    }
    // SAFETY: as above.
    unsafe { at.write(0) };
}

/// The paths to try: the program itself when it has a slash, else one for each directory of its `PATH`.
fn candidates(program: &Spawn<'_>) -> Result<Vec<CString>, SpawnError> {
    let name = program.program.as_bytes();
    if name.is_empty() {
        return Err(SpawnError::NotFound { program: program.program.clone() });
    }
    if name.contains(&b'/') {
        return Ok(vec![c_string(&program.program)?]);
    }
    let path =
        program.env.iter().find(|(name, _)| name == "PATH").map_or(DEFAULT_PATH, |(_, path)| path.as_bytes());
    let directories = path.split(|byte| *byte == b':');
    directories
        .map(|directory| match directory {
            // An empty entry stands for the current directory.
            b"" => c_string(OsStr::from_bytes(&[b"./", name].concat())),
            directory => c_string(OsStr::from_bytes(&[directory, b"/", name].concat())),
        })
        .collect()
}

/// Relative paths are relative to the child's directory.
fn full_path(program: &Spawn<'_>, path: &CStr) -> PathBuf {
    let path = Path::new(OsStr::from_bytes(path.to_bytes()));
    match &program.cwd {
        Some(cwd) if path.is_relative() => cwd.join(path),
        _ => path.to_owned(),
    }
}

fn c_string(text: &OsStr) -> Result<CString, SpawnError> {
    CString::new(text.to_owned().into_vec()).map_err(|_| invalid())
}

fn check_name(name: &OsStr) -> Result<(), SpawnError> {
    if name.is_empty() || name.as_bytes().contains(&b'=') { Err(invalid()) } else { Ok(()) }
}

/// A zero byte in an argument or variable, or an impossible variable name.
fn invalid() -> SpawnError {
    SpawnError::Step { step: Step::Prepare, errno: libc::EINVAL }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pids_are_written_in_decimal() {
        for pid in [1, 9, 10, 42, 4_194_304, u32::MAX] {
            let mut room = [b'x'; PID_ROOM];
            write_pid(room.as_mut_ptr(), pid);
            let text = CStr::from_bytes_until_nul(&room).expect("a zero byte was written");
            assert_eq!(text.to_str().unwrap(), pid.to_string());
        }
    }

    #[test]
    fn a_bare_name_is_looked_for_along_the_path() {
        let mut program = Spawn::new("tool");
        program.env = vec![("PATH".into(), "/a::/b".into()), ("PATH".into(), "/late".into())];
        let found = candidates(&program).unwrap();
        let found: Vec<_> = found.iter().map(|path| path.to_str().unwrap()).collect();
        assert_eq!(found, ["/a/tool", "./tool", "/b/tool"]);
    }

    #[test]
    fn zero_bytes_and_odd_names_are_refused() {
        let mut program = Spawn::new("/bin/true");
        program.env = vec![("A=B".into(), "1".into())];
        assert!(Image::new(&program).is_err());
        program.env = vec![("A".into(), "1\0".into())];
        assert!(Image::new(&program).is_err());
        program.env.clear();
        program.args = vec!["a\0b".into()];
        assert!(Image::new(&program).is_err());
    }
}
