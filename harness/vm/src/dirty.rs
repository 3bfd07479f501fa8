//! Dirty logs and dirty rings (api.rst 4.8, 4.117 and 8.29).

use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use nix::errno::Errno;
use nix::sys::mman::{MapFlags, ProtFlags};

use super::request::{KVM_CLEAR_DIRTY_LOG, KVM_GET_DIRTY_LOG, KVM_RESET_DIRTY_RINGS};
use super::{GuardedBuffer, Mapping, Vcpu, Vm, raw_ioctl_value};

/// `KVM_DIRTY_GFN_F_DIRTY`: the kernel has filled the entry.
pub const KVM_DIRTY_GFN_F_DIRTY: u32 = 1 << 0;
/// `KVM_DIRTY_GFN_F_RESET`: userspace has collected it.
pub const KVM_DIRTY_GFN_F_RESET: u32 = 1 << 1;

/// Where a vCPU's ring is mapped, in pages of its descriptor (`KVM_DIRTY_LOG_PAGE_OFFSET`).
const RING_OFFSET: u64 = kvm_bindings::KVM_DIRTY_LOG_PAGE_OFFSET as u64 * 4096;
const PAGES_PER_WORD: u64 = 64;

/// The numbers of the bits that are set.
pub fn set_bits(words: &[u64]) -> Vec<u64> {
    let bits = |(i, word): (usize, &u64)| {
        let word = *word;
        (0..PAGES_PER_WORD).filter(move |b| word >> b & 1 != 0).map(move |b| i as u64 * 64 + b)
    };
    words.iter().enumerate().flat_map(bits).collect()
}

/// A bitmap of `bits` bits, rounded up to words, with `set` set.
pub fn bitmap(bits: u64, set: impl IntoIterator<Item = u64>) -> Vec<u64> {
    let mut words = vec![0; bits.div_ceil(PAGES_PER_WORD) as usize];
    for bit in set {
        words[(bit / PAGES_PER_WORD) as usize] |= 1 << (bit % PAGES_PER_WORD);
    }
    words
}

/// The dirty log of one slot, with the room that its ioctls need: measured, they cost what KVM does.
#[derive(Debug)]
pub struct DirtyBitmap {
    words: GuardedBuffer,
    get: GuardedBuffer,
    clear: GuardedBuffer,
}

impl DirtyBitmap {
    /// The log of `slot`, of `nr_pages` pages.
    pub fn new(slot: u32, nr_pages: u64) -> Self {
        let words = GuardedBuffer::new(&vec![0; nr_pages.div_ceil(PAGES_PER_WORD) as usize * 8]);
        let mut get = [0; 16];
        get[..4].copy_from_slice(&slot.to_ne_bytes());
        get[8..].copy_from_slice(&words.address().to_ne_bytes());
        let mut clear = [0; 24];
        clear[..4].copy_from_slice(&slot.to_ne_bytes());
        clear[4..8].copy_from_slice(&(nr_pages as u32).to_ne_bytes());
        clear[16..].copy_from_slice(&words.address().to_ne_bytes());
        Self { words, get: GuardedBuffer::new(&get), clear: GuardedBuffer::new(&clear) }
    }

    /// `KVM_GET_DIRTY_LOG`. Every bit is set before, so that KVM must clear what is clean, and a write
    /// behind the bitmap's last word is EFAULT.
    ///
    /// # Errors
    ///
    /// The errno.
    pub fn get(&mut self, vm: &impl AsRawFd) -> Result<(), Errno> {
        self.words.bytes_mut().fill(0xff);
        raw_ioctl_value(vm, KVM_GET_DIRTY_LOG, self.get.address()).map(drop)
    }

    /// `KVM_CLEAR_DIRTY_LOG` of what the last [`DirtyBitmap::get`] found.
    ///
    /// # Errors
    ///
    /// The errno.
    pub fn clear(&self, vm: &Vm) -> Result<(), Errno> {
        raw_ioctl_value(vm, KVM_CLEAR_DIRTY_LOG, self.clear.address()).map(drop)
    }

    /// The numbers of all bits that came back set, also those behind the slot's end.
    pub fn pages(&self) -> Vec<u64> {
        let word = |bytes: &[u8]| u64::from_ne_bytes(bytes.try_into().unwrap_or_default());
        set_bits(&self.words.bytes().chunks_exact(8).map(word).collect::<Vec<_>>())
    }
}

impl Vm {
    /// `KVM_GET_DIRTY_LOG`: [`DirtyBitmap::pages`] of a slot.
    ///
    /// # Errors
    ///
    /// The errno.
    pub fn dirty_pages(&self, slot: u32, nr_pages: u64) -> Result<Vec<u64>, Errno> {
        let mut log = DirtyBitmap::new(slot, nr_pages);
        log.get(self)?;
        Ok(log.pages())
    }

    /// `KVM_CLEAR_DIRTY_LOG`; bit 0 of `bitmap` stands for `first_page`.
    ///
    /// # Errors
    ///
    /// The errno.
    pub fn clear_dirty_log(
        &self,
        slot: u32,
        first_page: u64,
        nr_pages: u32,
        bitmap: &[u64],
    ) -> Result<(), Errno> {
        let bytes: Vec<u8> = bitmap.iter().flat_map(|w| w.to_ne_bytes()).collect();
        let log = GuardedBuffer::new(&bytes);
        let mut argument = [0; 24];
        argument[..4].copy_from_slice(&slot.to_ne_bytes());
        argument[4..8].copy_from_slice(&nr_pages.to_ne_bytes());
        argument[8..16].copy_from_slice(&first_page.to_ne_bytes());
        argument[16..].copy_from_slice(&log.address().to_ne_bytes());
        self.raw(KVM_CLEAR_DIRTY_LOG, &mut argument).map(drop)
    }

    /// `KVM_RESET_DIRTY_RINGS`: how many entries of all rings were taken back.
    ///
    /// # Errors
    ///
    /// The errno.
    pub fn reset_dirty_rings(&self) -> Result<i32, Errno> {
        raw_ioctl_value(self, KVM_RESET_DIRTY_RINGS, 0)
    }
}

/// One `struct kvm_dirty_gfn`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DirtyGfn {
    /// Address space in the high half, slot in the low one.
    pub slot: u32,
    /// Page in the slot.
    pub offset: u64,
}

/// A vCPU's dirty ring, mapped; unmapped on drop.
#[derive(Debug)]
pub struct DirtyRing {
    mapping: Mapping,
    entries: usize,
    /// The next entry to collect, counted from the ring's creation.
    next: usize,
}

impl DirtyRing {
    const ENTRY_BYTES: usize = 16;

    /// Maps the ring of `vcpu`, whose VM has rings of `bytes`.
    ///
    /// # Errors
    ///
    /// The errno of mmap.
    pub fn map(vcpu: &Vcpu, bytes: u64) -> Result<Self, Errno> {
        let prot = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        let mapping = Self::map_with(vcpu, bytes, prot, MapFlags::MAP_SHARED)?;
        Ok(Self { mapping, entries: bytes as usize / Self::ENTRY_BYTES, next: 0 })
    }

    /// Maps the ring in the way given.
    ///
    /// # Errors
    ///
    /// The errno of mmap.
    pub fn map_with(
        vcpu: &Vcpu,
        bytes: u64,
        prot: ProtFlags,
        flags: MapFlags,
    ) -> Result<Mapping, Errno> {
        Mapping::of_descriptor(vcpu, RING_OFFSET, bytes as usize, prot, flags)
    }

    /// Number of entries.
    pub fn entries(&self) -> usize {
        self.entries
    }

    /// The flags of entry `index`, counted from the ring's creation.
    pub fn flags(&self, index: usize) -> &AtomicU32 {
        self.mapping.shared(index % self.entries * Self::ENTRY_BYTES)
    }

    /// Entry `index`, counted from the ring's creation.
    pub fn entry(&self, index: usize) -> DirtyGfn {
        let at = index % self.entries * Self::ENTRY_BYTES;
        let slot: &AtomicU32 = self.mapping.shared(at + 4);
        let offset: &AtomicU64 = self.mapping.shared(at + 8);
        DirtyGfn { slot: slot.load(Ordering::Relaxed), offset: offset.load(Ordering::Relaxed) }
    }

    /// The entries that are filled and not yet collected, without collecting them.
    pub fn filled(&self) -> Vec<DirtyGfn> {
        (self.next..self.next + self.entries)
            .take_while(|i| self.flags(*i).load(Ordering::Acquire) == KVM_DIRTY_GFN_F_DIRTY)
            .map(|i| self.entry(i))
            .collect()
    }

    /// Collects at most `limit` entries: marks them for `KVM_RESET_DIRTY_RINGS`.
    pub fn collect(&mut self, limit: usize) -> Vec<DirtyGfn> {
        let mut collected = self.filled();
        collected.truncate(limit);
        for _ in &collected {
            self.flags(self.next).store(KVM_DIRTY_GFN_F_RESET, Ordering::Release);
            self.next += 1;
        }
        collected
    }

    /// How many entries were collected so far: the index of the next one.
    pub fn next(&self) -> usize {
        self.next
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bitmaps_and_bit_numbers_are_inverse() {
        let bits = [0, 1, 63, 64, 99];
        let words = bitmap(100, bits);
        assert_eq!(words, [1 | 2 | 1 << 63, 1 | 1 << 35]);
        assert_eq!(set_bits(&words), bits);
    }
}
