//! Files and standard output as places for results: a full disk or a closed
//! pipe takes one output away, never another, and never leaves half a line.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// A place for results.
#[derive(Debug)]
pub struct Output {
    name: String,
    target: Target,
    broken: Option<String>,
    /// Whoever read it went away.
    unread: bool,
}

#[derive(Debug)]
enum Target {
    Stdout,
    Stderr,
    /// A file and how much of it is known to be good; special files have no size.
    File {
        file: File,
        good: Option<u64>,
        sync: bool,
    },
}

impl Output {
    /// Opens `name` for writing from its start; `-` is standard output.
    pub fn create(name: &str) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true);
        Self::open(name, &options, false)
    }

    /// Standard error, for what a person reads beside results on standard output.
    pub fn stderr() -> Self {
        Self {
            name: "standard error".to_owned(),
            target: Target::Stderr,
            broken: None,
            unread: false,
        }
    }

    /// As [`Output::create`], with every line on the disk before the next test runs.
    pub fn create_journal(name: &str) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        // Another run's results are not cut off before it is known that there is no such run.
        options.write(true).create(true).truncate(false);
        let output = Self::open(name, &options, true)?;
        if let Target::File { file, good: Some(_), .. } = &output.target {
            file.set_len(0)?;
        }
        Ok(output)
    }

    /// Goes on with a journal, after the last whole line in it.
    pub fn continue_journal(path: &Path) -> io::Result<Self> {
        let bytes = fs::read(path)?;
        let whole = bytes.iter().rposition(|b| *b == b'\n').map_or(0, |at| at + 1);
        let mut options = OpenOptions::new();
        options.append(true);
        let name = path.display().to_string();
        let mut output = Self::open(&name, &options, true)?;
        if let Target::File { file, good: Some(good), .. } = &mut output.target {
            file.set_len(whole as u64)?;
            *good = whole as u64;
        }
        Ok(output)
    }

    fn open(name: &str, options: &OpenOptions, journal: bool) -> io::Result<Self> {
        let target = if name == "-" {
            Target::Stdout
        } else {
            let file = options.clone().custom_flags(libc::O_CLOEXEC).open(name)?;
            let regular = file.metadata()?.is_file();
            if journal && regular && matches!(file.try_lock(), Err(TryLockError::WouldBlock)) {
                let why = "another run writes its results there";
                return Err(io::Error::new(ErrorKind::ResourceBusy, why));
            }
            Target::File { file, good: regular.then_some(0), sync: journal && regular }
        };
        Ok(Self { name: name.to_owned(), target, broken: None, unread: false })
    }

    /// Why nothing more is written here.
    pub fn broken(&self) -> Option<&str> {
        self.broken.as_deref()
    }

    /// Why something is missing here; that its reader went away, as in `… | head`, is no reason.
    pub fn lost(&self) -> Option<&str> {
        self.broken().filter(|_| !self.unread)
    }

    /// Whether this is standard output.
    pub fn is_stdout(&self) -> bool {
        matches!(self.target, Target::Stdout)
    }

    /// Writes whole lines, all of them or none.
    pub fn write(&mut self, lines: &str) {
        if self.broken.is_some() {
            return;
        }
        let result = match &mut self.target {
            Target::Stdout => {
                let mut stdout = io::stdout().lock();
                stdout.write_all(lines.as_bytes()).and_then(|()| stdout.flush())
            }
            Target::Stderr => io::stderr().lock().write_all(lines.as_bytes()),
            Target::File { file, good, sync } => {
                let written = file
                    .write_all(lines.as_bytes())
                    .and_then(|()| if *sync { file.sync_data() } else { Ok(()) });
                if let Some(good) = good {
                    match &written {
                        Ok(()) => *good += lines.len() as u64,
                        Err(_) => {
                            let _ = file.set_len(*good);
                        }
                    }
                }
                written
            }
        };
        if let Err(e) = result {
            let place = if self.is_stdout() { "standard output" } else { &self.name };
            let told = format!("{place}: {e}; nothing more is written there");
            self.unread = self.is_stdout() && e.kind() == ErrorKind::BrokenPipe;
            if !self.unread {
                let _ = writeln!(io::stderr(), "{told}");
            }
            self.broken = Some(told);
        }
    }
}

/// Writes a whole document: a regular file is replaced at once or left as it was.
pub fn write_document(name: &str, text: &str) -> io::Result<()> {
    if name == "-" {
        let mut stdout = io::stdout().lock();
        return stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
    }
    let path = PathBuf::from(name);
    if fs::metadata(&path).is_ok_and(|m| !m.is_file()) {
        return fs::write(&path, text);
    }
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let mut temporary = tempfile::Builder::new()
        .prefix(".results")
        .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644))
        .tempfile_in(folder)?;
    temporary.write_all(text.as_bytes())?;
    temporary.as_file().sync_data()?;
    temporary.persist(&path)?;
    Ok(())
}
