//! The ways out of the emulated host.

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use lab_init::{RESULT_PORT, Report, STDERR_PORT};
use nix::sys::termios;

/// How long a port may take to turn up after its driver.
const PORT_PATIENCE: Duration = Duration::from_secs(2);

/// The given device; else the result port; else the console.
pub fn open_results(device: Option<&str>) -> anyhow::Result<File> {
    if let Some(device) = device {
        let deadline = Instant::now() + PORT_PATIENCE;
        while !fs::exists(device)? && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(10));
        }
        return open_serial(device);
    }
    if let Some(port) = virtio_port(RESULT_PORT, PORT_PATIENCE) {
        return Ok(port);
    }
    open_serial("/dev/console")
}

/// The port for standard error, where there is one.
pub fn open_stderr() -> Option<File> {
    virtio_port(STDERR_PORT, Duration::ZERO)
}

/// Sends one report.
pub fn send(port: &mut File, report: &Report) -> std::io::Result<()> {
    send_all(port, std::slice::from_ref(report))
}

/// Sends several reports as one piece: the emulator wakes up for each.
pub fn send_all(port: &mut File, reports: &[Report]) -> std::io::Result<()> {
    let text: String = reports.iter().map(Report::encode).collect();
    port.write_all(text.as_bytes())
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
