//! The `newc` archive that Linux takes as an initramfs.

use std::io::{self, Write};

/// Magic number of the format.
const MAGIC: &str = "070701";
/// Name of the entry that ends an archive.
const TRAILER: &str = "TRAILER!!!";
const MODE_DIR: u32 = 0o040_755;
const MODE_FILE: u32 = 0o100_644;
const MODE_PROGRAM: u32 = 0o100_755;
const MODE_CHAR_DEVICE: u32 = 0o020_600;

/// Writes an archive. Parents of a path must be written before it.
#[derive(Debug)]
pub struct Writer<W> {
    out: W,
    offset: usize,
    inode: u32,
}

impl<W: Write> Writer<W> {
    /// Starts an archive.
    pub fn new(out: W) -> Self {
        Self { out, offset: 0, inode: 0 }
    }

    /// A directory.
    pub fn dir(&mut self, path: &str) -> io::Result<()> {
        self.entry(path, MODE_DIR, (0, 0), &[])
    }

    /// A regular file.
    pub fn file(&mut self, path: &str, content: &[u8]) -> io::Result<()> {
        self.entry(path, MODE_FILE, (0, 0), content)
    }

    /// An executable file.
    pub fn program(&mut self, path: &str, content: &[u8]) -> io::Result<()> {
        self.entry(path, MODE_PROGRAM, (0, 0), content)
    }

    /// A character device.
    pub fn char_device(&mut self, path: &str, major: u32, minor: u32) -> io::Result<()> {
        self.entry(path, MODE_CHAR_DEVICE, (major, minor), &[])
    }

    /// Ends the archive.
    pub fn finish(mut self) -> io::Result<W> {
        self.inode = 0;
        self.entry(TRAILER, 0, (0, 0), &[])?;
        Ok(self.out)
    }

    fn entry(
        &mut self,
        path: &str,
        mode: u32,
        device: (u32, u32),
        content: &[u8],
    ) -> io::Result<()> {
        let name = path.trim_start_matches('/');
        let size = u32::try_from(content.len())
            .map_err(|_| io::Error::other(format!("{path} is too long for an initramfs")))?;
        let name_size = u32::try_from(name.len() + 1).map_err(io::Error::other)?;
        self.inode += 1;
        let fields = [self.inode, mode, 0, 0, 1, 0, size, 0, 0, device.0, device.1, name_size, 0];
        let mut header = String::from(MAGIC);
        for field in fields {
            header.push_str(&format!("{field:08x}"));
        }
        self.put(header.as_bytes())?;
        self.put(name.as_bytes())?;
        self.put(&[0])?;
        self.pad()?;
        self.put(content)?;
        self.pad()
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.offset += bytes.len();
        self.out.write_all(bytes)
    }

    fn pad(&mut self) -> io::Result<()> {
        let missing = self.offset.wrapping_neg() % 4;
        self.put(&[0; 3][..missing])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_aligned_and_sized() -> io::Result<()> {
        let mut writer = Writer::new(Vec::new());
        writer.dir("/dev")?;
        writer.file("/dev/ab", b"12345")?;
        let bytes = writer.finish()?;
        assert_eq!(bytes.len() % 4, 0);
        // Header 110, "dev\0" 4, padding 2: the second header starts at 116.
        assert_eq!(&bytes[116..122], MAGIC.as_bytes());
        assert_eq!(&bytes[116 + 6 + 6 * 8..116 + 6 + 7 * 8], b"00000005");
        // "dev/ab\0" ends at 233, padded to 236.
        assert_eq!(&bytes[236..241], b"12345");
        Ok(())
    }

    #[test]
    fn ends_with_the_trailer() -> io::Result<()> {
        let bytes = Writer::new(Vec::new()).finish()?;
        assert!(bytes.windows(TRAILER.len()).any(|window| window == TRAILER.as_bytes()));
        Ok(())
    }
}
