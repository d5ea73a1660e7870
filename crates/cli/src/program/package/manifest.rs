//! A `package.json`, as far as starting programs goes.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde_json::Value;

/// A larger file is not read: it is somebody's mistake.
const LARGEST: u64 = 4 << 20;

/// A package's description.
#[derive(Clone, Debug)]
pub(super) struct Manifest {
    pub(super) directory: PathBuf,
    fields: Value,
}

impl Manifest {
    /// The nearest one, here or above.
    pub(super) fn find(from: &Path) -> Result<Option<Self>, String> {
        for directory in from.ancestors() {
            let file = directory.join("package.json");
            if file.is_file() {
                let fields = read(&file).map_err(|error| format!("{}: {error}", file.display()))?;
                return Ok(Some(Self { directory: directory.to_path_buf(), fields }));
            }
        }
        Ok(None)
    }

    pub(super) fn file(&self) -> PathBuf {
        self.directory.join("package.json")
    }

    /// As people know it.
    pub(super) fn shown(&self) -> String {
        self.file().display().to_string()
    }

    pub(super) fn name(&self) -> Option<String> {
        self.text(&["name"])
    }

    pub(super) fn version(&self) -> Option<String> {
        self.text(&["version"])
    }

    /// A script's command; what `start` means where it is not said.
    pub(super) fn script(&self, name: &str) -> Option<String> {
        let default = || {
            (name == "start" && self.directory.join("server.js").is_file()).then(|| "node server.js".into())
        };
        self.text(&["scripts", name]).or_else(default)
    }

    pub(super) fn script_names(&self) -> Vec<&str> {
        let scripts = self.fields.get("scripts").and_then(Value::as_object);
        scripts.map(|scripts| scripts.keys().map(String::as_str).collect()).unwrap_or_default()
    }

    /// The file behind a program's name: the package's own, or one that a dependency brings.
    pub(super) fn program(&self, name: &str) -> Option<PathBuf> {
        let own = bin_of(&self.fields, name).map(|file| self.directory.join(file));
        let linked = || {
            let modules = self.directory.ancestors().map(|above| above.join("node_modules"));
            modules.map(|modules| modules.join(".bin").join(name)).find(|file| file.is_file())
        };
        let brought = || {
            let modules = self.directory.ancestors().map(|above| above.join("node_modules").join(name));
            modules.filter(|package| package.is_dir()).find_map(|package| {
                let fields = read(&package.join("package.json")).ok()?;
                let short = name.rsplit('/').next().unwrap_or(name);
                bin_of(&fields, short).map(|file| package.join(file))
            })
        };
        own.filter(|file| file.is_file()).or_else(linked).or_else(brought).map(|file| plain(&file))
    }

    fn text(&self, path: &[&str]) -> Option<String> {
        let value = path.iter().try_fold(&self.fields, |value, name| value.get(name))?;
        value.as_str().map(str::to_owned)
    }
}

/// A package's program of this name: `bin` is one file, named as the package is, or several.
fn bin_of(fields: &Value, name: &str) -> Option<String> {
    let file = match fields.get("bin")? {
        Value::String(file) => {
            let own = fields.get("name").and_then(Value::as_str)?;
            (own.rsplit('/').next() == Some(name)).then_some(file.as_str())
        }
        several => several.get(name).and_then(Value::as_str),
    };
    file.map(str::to_owned)
}

/// Without the `.` in the middle that a package's own paths bring.
fn plain(file: &Path) -> PathBuf {
    file.components().collect()
}

fn read(file: &Path) -> Result<Value, String> {
    let mut text = Vec::new();
    let file = File::open(file).map_err(|error| error.to_string())?;
    file.take(LARGEST + 1).read_to_end(&mut text).map_err(|error| error.to_string())?;
    if text.len() as u64 > LARGEST {
        return Err(format!("larger than {LARGEST} bytes"));
    }
    // Some editors put a mark in front.
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&text);
    serde_json::from_slice(text).map_err(|error| format!("not valid: {error}"))
}
