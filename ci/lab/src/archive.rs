//! The `newc` archive that Linux takes as an initramfs.

use std::io::{self, Write};

use cpio::newc::{Builder, ModeFileType, trailer};

/// Writes an archive. Parents of a path must be written before it.
#[derive(Debug)]
pub struct Archive<W> {
    out: W,
}

impl<W: Write> Archive<W> {
    /// Starts an archive.
    pub fn new(out: W) -> Self {
        Self { out }
    }

    /// A directory.
    pub fn dir(&mut self, path: &str) -> io::Result<()> {
        let entry = entry(path, 0o755).set_mode_file_type(ModeFileType::Directory);
        self.put(entry, &[])
    }

    /// A regular file.
    pub fn file(&mut self, path: &str, content: &[u8]) -> io::Result<()> {
        let entry = entry(path, 0o644).set_mode_file_type(ModeFileType::Regular);
        self.put(entry, content)
    }

    /// An executable file.
    pub fn program(&mut self, path: &str, content: &[u8]) -> io::Result<()> {
        let entry = entry(path, 0o755).set_mode_file_type(ModeFileType::Regular);
        self.put(entry, content)
    }

    /// A character device.
    pub fn char_device(&mut self, path: &str, major: u32, minor: u32) -> io::Result<()> {
        let entry = entry(path, 0o600).set_mode_file_type(ModeFileType::Char);
        self.put(entry.rdev_major(major).rdev_minor(minor), &[])
    }

    /// Ends the archive.
    pub fn finish(self) -> io::Result<W> {
        trailer(self.out)
    }

    fn put(&mut self, entry: Builder, content: &[u8]) -> io::Result<()> {
        let size = u32::try_from(content.len())
            .map_err(|_| io::Error::other("too long for an initramfs"))?;
        let mut writer = entry.write(&mut self.out, size);
        writer.write_all(content)?;
        writer.finish().map(|_| ())
    }
}

fn entry(path: &str, mode: u32) -> Builder {
    Builder::new(path.trim_start_matches('/')).mode(mode)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Linux reads one archive behind the other only where each ends on a word's boundary.
    #[test]
    fn an_archive_can_be_continued_by_another() -> io::Result<()> {
        let mut archive = Archive::new(Vec::new());
        archive.dir("/dev")?;
        archive.file("/dev/ab", b"12345")?;
        let bytes = archive.finish()?;
        assert_eq!(bytes.len() % 4, 0);
        let first = cpio::NewcReader::new(bytes.as_slice())?;
        assert_eq!((first.entry().name(), first.entry().mode()), ("dev", 0o040_755));
        let second = cpio::NewcReader::new(first.finish()?)?;
        assert_eq!((second.entry().name(), second.entry().file_size()), ("dev/ab", 5));
        assert!(cpio::NewcReader::new(second.finish()?)?.entry().is_trailer());
        Ok(())
    }
}
