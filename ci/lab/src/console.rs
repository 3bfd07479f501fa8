//! The kernel's console: what is kept of it for a crash report.

use std::collections::VecDeque;
use std::fs::File;
use std::io::Write as _;

use results::trouble;

/// Lines kept where there is a sign of trouble in them.
const NR_LOG_LINES: usize = 600;
/// Lines kept where there is none.
const NR_TAIL_LINES: usize = 40;

/// The lines so far, as far as they are kept.
#[derive(Debug)]
pub struct Console {
    file: Option<File>,
    lines: VecDeque<String>,
    trouble: bool,
    dying: bool,
}

impl Console {
    /// An empty console; everything also goes to the file.
    pub fn new(file: Option<File>) -> Self {
        Self { file, lines: VecDeque::new(), trouble: false, dying: false }
    }

    /// One more line.
    pub fn keep(&mut self, line: &str) {
        if let Some(file) = &mut self.file {
            let _ = writeln!(file, "{line}");
        }
        if !self.trouble && trouble::begins(line) {
            self.trouble = true;
            let surplus = self.lines.len().saturating_sub(NR_TAIL_LINES);
            self.lines.drain(..surplus);
        }
        if trouble::is_fatal(line) {
            self.dying = true;
        }
        // Of a long report the beginning and the end are kept; without trouble, the end.
        let (limit, least) = match self.trouble {
            true => (NR_LOG_LINES, NR_LOG_LINES / 2),
            false => (NR_TAIL_LINES, 0),
        };
        if self.lines.len() >= limit {
            self.lines.remove(least);
        }
        self.lines.push_back(line.to_owned());
    }

    /// Forgets what came while the host booted: it is not the runner's doing.
    pub fn runner_starts(&mut self) {
        self.trouble = false;
        self.lines.clear();
    }

    /// Whether the kernel has reported that it does not go on.
    pub fn kernel_is_dying(&self) -> bool {
        self.dying
    }

    /// The kept lines.
    pub fn text(&self) -> String {
        self.lines.iter().map(String::as_str).collect::<Vec<_>>().join("\n")
    }
}

/// The end of a text, as much of it as is shown of a quiet console.
pub fn tail(text: &str) -> String {
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(NR_TAIL_LINES)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quiet_console_keeps_its_end() {
        let mut console = Console::new(None);
        (0..100).for_each(|number| console.keep(&format!("line {number}")));
        assert_eq!(console.text().lines().next(), Some("line 60"));
        assert_eq!(console.text().lines().last(), Some("line 99"));
    }

    #[test]
    fn a_crash_keeps_its_beginning_and_its_end() {
        let mut console = Console::new(None);
        console.keep("BUG: kernel NULL pointer dereference");
        (0..2000).for_each(|number| console.keep(&format!("line {number}")));
        let text = console.text();
        assert!(text.starts_with("BUG: ") && text.ends_with("line 1999"));
        assert!(!console.kernel_is_dying());
        console.keep("Kernel panic - not syncing: Fatal exception");
        assert!(console.kernel_is_dying());
    }
}
