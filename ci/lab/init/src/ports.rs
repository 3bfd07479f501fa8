//! The ways out of the emulated host.

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use lab_init::{RESULT_PORT, Report, STDERR_PORT};
use nix::sys::termios;

/// How long a port may take to turn up after its driver.
const PORT_PATIENCE: Duration = Duration::from_secs(2);
const CONSOLE: &str = "/dev/console";

/// Where reports and the runner's lines go.
#[derive(Debug)]
pub struct Results {
    file: File,
    on_console: bool,
}

impl Results {
    /// Sends reports as one piece: the emulator wakes up for each.
    pub fn send(&mut self, reports: &[Report]) -> std::io::Result<()> {
        let text: String = reports.iter().map(Report::line).collect();
        self.file.write_all(text.as_bytes())
    }

    /// The port itself.
    pub fn file(&mut self) -> &mut File {
        &mut self.file
    }

    /// Whether it is the console, for want of a port.
    pub fn on_console(&self) -> bool {
        self.on_console
    }
}

/// The given device; else the result port; else the console.
pub fn open_results(device: Option<&str>) -> anyhow::Result<Results> {
    if let Some(device) = device {
        let deadline = Instant::now() + PORT_PATIENCE;
        while !fs::exists(device)? && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(10));
        }
        return Ok(Results { file: open_serial(device)?, on_console: false });
    }
    match virtio_port(RESULT_PORT, PORT_PATIENCE) {
        Some(file) => Ok(Results { file, on_console: false }),
        None => Ok(Results { file: open_serial(CONSOLE)?, on_console: true }),
    }
}

/// The port for standard error, where there is one.
pub fn open_stderr() -> Option<File> {
    virtio_port(STDERR_PORT, Duration::ZERO)
}

fn open_serial(device: &str) -> anyhow::Result<File> {
    let file = OpenOptions::new().read(true).write(true).open(device)?;
    if let Ok(mut settings) = termios::tcgetattr(&file) {
        termios::cfmakeraw(&mut settings);
        let _ = termios::tcsetattr(&file, termios::SetArg::TCSANOW, &settings);
    }
    Ok(file)
}

fn virtio_port(name: &str, patience: Duration) -> Option<File> {
    let deadline = Instant::now() + patience;
    loop {
        if let Some(path) = find_port(name)
            && let Ok(file) = OpenOptions::new().read(true).write(true).open(path)
        {
            return Some(file);
        }
        if Instant::now() >= deadline {
            return None;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn find_port(name: &str) -> Option<PathBuf> {
    for entry in fs::read_dir("/sys/class/virtio-ports").ok()?.flatten() {
        let found = fs::read_to_string(entry.path().join("name")).unwrap_or_default();
        if found.trim() == name {
            return Some(PathBuf::from("/dev").join(entry.file_name()));
        }
    }
    None
}
