//! Two pages of device memory behind KVM_EXIT_MMIO, served by userspace.
use crate::prelude::*;

/// Two pages without a memslot.
pub const DEVICE: u64 = layout::FREE;

#[host]
pub use host::*;

#[host]
mod host {
    use super::*;

    const PAGE: u64 = layout::PAGE_SIZE;

    /// What one exit did.
    #[derive(Debug, PartialEq)]
    pub struct Access {
        pub is_write: bool,
        pub gpa: u64,
        pub data: Vec<u8>,
    }

    /// Two pages of device memory behind MMIO, and all exits that touched them.
    pub struct Device {
        /// What loads get.
        pub bytes: Vec<u8>,
        /// Every exit so far.
        pub log: Vec<Access>,
    }

    impl Device {
        /// Byte `i` reads as `(i + 1) * 37`, so that neighbours and pages differ.
        pub fn new() -> Self {
            let bytes = (0..2 * PAGE).map(|i| ((i + 1) * 37 + i / PAGE) as u8).collect();
            Self { bytes, log: Vec::new() }
        }

        /// `N` device bytes at `offset`, as reset or as written since.
        pub fn at<const N: usize>(&self, offset: u64) -> [u8; N] {
            self.bytes[offset as usize..][..N].try_into().unwrap()
        }

        /// Serves the vCPU until its guest function returns; checks what holds for every exit.
        pub fn serve(&mut self, vcpu: &mut Vcpu) -> TestResult {
            while let Some(mut stop) = vcpu.run_until_exit()? {
                let Exit::Mmio { gpa, len, is_write } = stop.exit() else {
                    fail!("{:x?} instead of an MMIO exit", stop.exit())
                };
                check!("an exit moves 1 to 8 bytes", (1..=8).contains(&len), "{len}");
                let len = u64::from(len.clamp(1, 8));
                check!("an exit stays in its page", gpa % PAGE + len <= PAGE, "{len} at {gpa:#x}");
                let Some(range) = gpa.checked_sub(DEVICE).filter(|o| o + len <= 2 * PAGE) else {
                    fail!("an exit at {gpa:#x}, where the guest did nothing")
                };
                let bytes = &mut self.bytes[range as usize..(range + len) as usize];
                if is_write {
                    bytes.copy_from_slice(stop.data());
                } else {
                    stop.set_data(bytes);
                }
                self.log.push(Access { is_write, gpa, data: bytes.to_vec() });
            }
            Ok(())
        }

        /// The exits since the last call, joined where one goes on where the other ended: an access may
        /// take several exits, in ascending order.
        pub fn accesses(&mut self) -> Vec<Access> {
            let mut joined: Vec<Access> = Vec::new();
            for access in self.log.drain(..) {
                match joined.last_mut() {
                    Some(last)
                        if last.is_write == access.is_write
                            && last.gpa + last.data.len() as u64 == access.gpa =>
                    {
                        last.data.extend(access.data);
                    }
                    _ => joined.push(access),
                }
            }
            joined
        }
    }

    /// An exit for a load of `data` at `offset` of the device.
    pub fn read(offset: u64, data: &[u8]) -> Access {
        Access { is_write: false, gpa: DEVICE + offset, data: data.to_vec() }
    }

    /// An exit for a store of `data` at `offset` of the device.
    pub fn write(offset: u64, data: &[u8]) -> Access {
        Access { is_write: true, gpa: DEVICE + offset, data: data.to_vec() }
    }
}
