//! The memory that a saved host keeps free for a run's files: located in the snapshot when that is taken,
//! filled in the memory of the emulator that restores it.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Read as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use lab_init::{RESERVE_BYTES, RESERVE_PAGE, StoredFile, marked_page};
use serde::{Deserialize, Serialize};

use crate::error::{At as _, LabError, Result};
use crate::initramfs::GuestFile;

/// Where a snapshot keeps the pieces of its reserved memory.
const PIECES_FILE: &str = "reserve.json";
/// What is read of a memory or of a file at a time.
const CHUNK: usize = 1 << 20;

/// Pieces of the host's memory, in the order in which files fill them.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reserve(Vec<Piece>);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Piece {
    place: u64,
    bytes: usize,
}

/// The files with their sizes, as the host has to know them.
pub fn contents(files: &[GuestFile]) -> Result<Vec<StoredFile>> {
    let file = |file: &GuestFile| {
        let bytes = fs::metadata(&file.source).at(&file.source)?.len();
        Ok(StoredFile {
            path: file.path.clone(),
            bytes: usize::try_from(bytes).unwrap_or(usize::MAX),
        })
    };
    files.iter().map(file).collect()
}

/// Whether the reserved memory holds the files.
pub fn holds(files: &[StoredFile]) -> bool {
    files
        .iter()
        .try_fold(0usize, |sum, file| sum.checked_add(file.bytes.checked_add(RESERVE_PAGE)?))
        .is_some_and(|sum| sum <= RESERVE_BYTES)
}

impl Reserve {
    /// Finds the reserved memory in a snapshot, and notes there where it is.
    pub fn locate(snapshot: &Path, ram: &Path) -> Result<()> {
        let path = snapshot.join(PIECES_FILE);
        let text = serde_json::to_string(&Self::find(ram)?).map_err(std::io::Error::other);
        fs::write(&path, text.at(&path)?).at(&path)
    }

    fn find(ram: &Path) -> Result<Self> {
        let mut places = vec![None; RESERVE_BYTES / RESERVE_PAGE];
        let mut reader = BufReader::with_capacity(CHUNK, File::open(ram).at(ram)?);
        let (mut page, mut place) = ([0; RESERVE_PAGE], 0);
        while !reader.fill_buf().at(ram)?.is_empty() {
            reader.read_exact(&mut page).at(ram)?;
            if let Some(index) = marked_page(&page)
                && places[index].replace(place).is_some()
            {
                return Err(LabError::Other("the reserved memory is there twice".into()));
            }
            place += RESERVE_PAGE as u64;
        }
        let mut pieces: Vec<Piece> = Vec::new();
        for place in places {
            let place =
                place.ok_or_else(|| LabError::Other("the reserved memory has holes".into()))?;
            match pieces.last_mut() {
                Some(last) if last.place + last.bytes as u64 == place => last.bytes += RESERVE_PAGE,
                _ => pieces.push(Piece { place, bytes: RESERVE_PAGE }),
            }
        }
        Ok(Self(pieces))
    }

    /// As a snapshot notes it.
    pub fn load(snapshot: &Path) -> Result<Self> {
        let path = snapshot.join(PIECES_FILE);
        let text = fs::read_to_string(&path).at(&path)?;
        serde_json::from_str(&text).map_err(std::io::Error::other).at(&path)
    }

    /// Puts the files into a process's own view of the memory.
    pub fn fill(&self, process: u32, ram: &Path, files: &[GuestFile]) -> Result<()> {
        let path = PathBuf::from(format!("/proc/{process}/mem"));
        let memory = File::options().write(true).open(&path).at(&path)?;
        let views = views(process, ram)?;
        let mut offset = 0;
        let mut buffer = vec![0; CHUNK];
        for file in files {
            let mut source = File::open(&file.source).at(&file.source)?;
            loop {
                let length = source.read(&mut buffer).at(&file.source)?;
                if length == 0 {
                    break;
                }
                let mut rest = &buffer[..length];
                while !rest.is_empty() {
                    let (address, most) = self.address(&views, offset)?;
                    let (now, later) = rest.split_at(rest.len().min(most));
                    memory.write_all_at(now, address).at(&path)?;
                    offset += now.len();
                    rest = later;
                }
            }
            offset = offset.next_multiple_of(RESERVE_PAGE);
        }
        Ok(())
    }

    /// Where a byte of the reserved memory is in the process, and how many follow it there.
    fn address(&self, views: &[View], offset: usize) -> Result<(u64, usize)> {
        let mut before = offset;
        let piece = self.0.iter().find(|piece| {
            let found = before < piece.bytes;
            before -= if found { 0 } else { piece.bytes };
            found
        });
        let found = piece.and_then(|piece| {
            let place = piece.place + before as u64;
            let view =
                views.iter().find(|view| (view.place..view.place + view.bytes).contains(&place))?;
            let inside = place - view.place;
            let most = usize::try_from(view.bytes - inside).unwrap_or(usize::MAX);
            Some((view.address + inside, most.min(piece.bytes - before)))
        });
        found.ok_or_else(|| LabError::Other("the reserved memory is not in the emulator's".into()))
    }
}

/// A mapping of the memory's file.
#[derive(Debug)]
struct View {
    address: u64,
    place: u64,
    bytes: u64,
}

/// Where a process has the memory mapped.
fn views(process: u32, ram: &Path) -> Result<Vec<View>> {
    let path = PathBuf::from(format!("/proc/{process}/maps"));
    let text = fs::read_to_string(&path).at(&path)?;
    let ram = fs::canonicalize(ram).at(ram)?;
    Ok(text.lines().filter_map(|line| view(line, &ram)).collect())
}

/// `7f00-7f80 rw-p 00001000 fe:00 1234    /path`
fn view(line: &str, ram: &Path) -> Option<View> {
    let hex = |text: &str| u64::from_str_radix(text, 16).ok();
    let mut words = line.splitn(6, ' ');
    let (start, end) = words.next()?.split_once('-')?;
    let place = hex(words.nth(1)?)?;
    let address = hex(start)?;
    let file = words.nth(2)?.trim_start();
    (Path::new(file) == ram).then_some(View { address, place, bytes: hex(end)? - address })
}

#[cfg(test)]
mod tests {
    use super::*;
    use lab_init::mark;

    const NR_PAGES: usize = RESERVE_BYTES / RESERVE_PAGE;

    /// A memory in which the reserved part's second half comes first.
    fn memory(dir: &Path) -> PathBuf {
        let path = dir.join("ram");
        let file = File::create(&path).unwrap();
        file.set_len(2 * RESERVE_BYTES as u64).unwrap();
        for index in 0..NR_PAGES {
            let at = (index + NR_PAGES / 2) % NR_PAGES + 1;
            file.write_all_at(&mark(index), (at * RESERVE_PAGE) as u64).unwrap();
        }
        path
    }

    #[test]
    fn reserved_memory_is_found_and_noted() {
        let dir = tempfile::tempdir().unwrap();
        let ram = memory(dir.path());
        Reserve::locate(dir.path(), &ram).unwrap();
        let half = RESERVE_BYTES / 2;
        let page = RESERVE_PAGE as u64;
        let pieces =
            [Piece { place: page + half as u64, bytes: half }, Piece { place: page, bytes: half }];
        assert_eq!(Reserve::load(dir.path()).unwrap(), Reserve(pieces.to_vec()));
    }

    #[test]
    fn incomplete_reserved_memory_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let ram = memory(dir.path());
        let file = File::options().write(true).open(&ram).unwrap();
        file.write_all_at(&[0; RESERVE_PAGE], RESERVE_PAGE as u64).unwrap();
        assert!(Reserve::find(&ram).unwrap_err().to_string().contains("holes"));
        file.write_all_at(&mark(7), RESERVE_PAGE as u64).unwrap();
        assert!(Reserve::find(&ram).unwrap_err().to_string().contains("twice"));
    }

    #[test]
    fn every_byte_has_its_address() {
        let dir = tempfile::tempdir().unwrap();
        let reserve = Reserve::find(&memory(dir.path())).unwrap();
        let (half, page) = (RESERVE_BYTES / 2, RESERVE_PAGE as u64);
        let end = page + RESERVE_BYTES as u64;
        let views = [
            View { address: 0x10_0000, place: 0, bytes: 2 * page },
            View { address: 0x7000_0000, place: 2 * page, bytes: end - 2 * page },
        ];
        let start = 0x7000_0000 - page;
        assert_eq!(reserve.address(&views, 17).unwrap(), (start + half as u64 + 17, half - 17));
        assert_eq!(reserve.address(&views, half).unwrap(), (0x10_0000 + page, RESERVE_PAGE));
        assert_eq!(reserve.address(&views, half + RESERVE_PAGE).unwrap().0, 0x7000_0000);
        assert!(reserve.address(&views, RESERVE_BYTES).is_err());
        assert!(reserve.address(&views[..1], 17).is_err());
    }

    #[test]
    fn files_that_are_too_large_do_not_fit() {
        let file = |bytes| StoredFile { path: "/a".into(), bytes };
        assert!(holds(&[file(1), file(RESERVE_BYTES / 2)]));
        assert!(!holds(&[file(RESERVE_BYTES / 2), file(RESERVE_BYTES / 2)]));
        assert!(!holds(&[file(usize::MAX)]));
    }

    #[test]
    fn a_view_is_a_line_of_that_file() {
        let line = "7f0000000000-7f0000002000 rw-p 00001000 fe:00 1234       /a b/ram";
        let found = view(line, Path::new("/a b/ram")).unwrap();
        assert_eq!((found.address, found.place, found.bytes), (0x7f00_0000_0000, 0x1000, 0x2000));
        assert!(view(line, Path::new("/ram")).is_none());
        assert!(view("7f0000000000-7f0000002000 rw-p 00001000 fe:00 0", Path::new("")).is_none());
    }
}
