//! Starting a front door over the fakes, and reading what it says.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;
use tempfile::TempDir;

/// A named test of the runner.
pub type Named = (&'static str, fn());

/// A folder of its own, and the front door started in it.
pub struct Door {
    /// Gone with this value.
    pub folder: TempDir,
    environment: Vec<(&'static str, String)>,
}

impl Door {
    pub fn new() -> Self {
        Self { folder: TempDir::new().unwrap(), environment: Vec::new() }
    }

    pub fn with(mut self, variable: &'static str, value: impl ToString) -> Self {
        self.environment.push((variable, value.to_string()));
        self
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes a file into the folder and gives its path.
    pub fn file(&self, name: &str, text: &str) -> String {
        let path = self.path(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    }

    pub fn command(&self, kind: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(arguments).current_dir(self.folder.path()).env("FAKE_DOOR", kind);
        command.env("KVM_CONFORMANCE_COMMAND", "./run_tests.sh");
        command.envs(self.environment.iter().map(|(k, v)| (*k, v.as_str())));
        command
    }

    /// Runs the command line door to its end.
    pub fn run(&self, arguments: &[&str]) -> Output {
        self.command("cli", arguments).output().unwrap()
    }

    /// Runs tests with `--json` and gives the exit status and the lines.
    pub fn json(&self, arguments: &[&str]) -> (i32, Vec<Value>) {
        let file = self.path("out.json");
        let mut all = vec!["--json", file.to_str().unwrap()];
        all.extend(arguments);
        let output = self.run(&all);
        let status = output.status.code().unwrap_or(-1);
        assert!(file.exists(), "no results; {}", text(&output.stderr));
        (status, lines(&file))
    }

    /// Runs one test and gives the exit status and its result.
    pub fn one(&self, arguments: &[&str]) -> (i32, Value) {
        let (status, lines) = self.json(arguments);
        let mut results = results(&lines);
        assert_eq!(results.len(), 1, "{lines:?}");
        (status, results.remove(0))
    }
}

pub fn lines(file: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(file).unwrap();
    assert!(text.is_empty() || text.ends_with('\n'), "torn last line: {text}");
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

pub fn results(lines: &[Value]) -> Vec<Value> {
    lines.iter().filter(|line| line["type"] == "result").cloned().collect()
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
