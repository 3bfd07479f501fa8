//! A sign of life on the console while the program runs: a host that hangs is known by its silence,
//! however long the program may be quiet.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::Duration;

use lab_init::Report;

/// Time between two signs.
const PERIOD: Duration = Duration::from_secs(5);

/// Signs are sent until this is dropped.
#[derive(Debug)]
pub struct Heartbeat {
    _stop: Sender<()>,
}

impl Heartbeat {
    /// Starts to send signs.
    pub fn start() -> std::io::Result<Self> {
        let mut console = OpenOptions::new().write(true).open("/dev/console")?;
        let (stop, stopped) = channel();
        std::thread::Builder::new().spawn(move || {
            let sign = Report::Alive.line();
            while stopped.recv_timeout(PERIOD) == Err(RecvTimeoutError::Timeout) {
                // As one write: the kernel's own lines stay whole.
                if console.write_all(sign.as_bytes()).is_err() {
                    return;
                }
            }
        })?;
        Ok(Self { _stop: stop })
    }
}
