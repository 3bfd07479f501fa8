//! Guest contexts, as the host finds them: whose registers these are, and whose message (DESIGN.md,
//! "Levels").

use std::fmt;

use guest_protocol::layout::{self, PAGE_SIZE, VCPU_AREA_SIZE, vcpu_area};
use guest_protocol::{L1, MAGIC, MAX_LEVEL, PROTOCOL_VERSION, StartInfo};
use zerocopy::FromBytes;

use crate::Ram;

/// What code of one level runs on, on one vCPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Context {
    pub(crate) vcpu: u32,
    /// From [`L1`]; the hypervisor under test is L0.
    pub(crate) level: u32,
    area: u64,
}

impl Context {
    /// The one that a vCPU starts on.
    pub(crate) fn of_vcpu(vcpu: u32) -> Self {
        Self { vcpu, level: L1, area: layout::vcpu_area(vcpu.into()) }
    }

    /// The one of vCPU `vcpu` whose message page is at `gpa`.
    ///
    /// # Errors
    ///
    /// There is none, and why.
    pub(crate) fn of_message(ram: &Ram, vcpu: u32, gpa: u64) -> Result<Self, String> {
        let own = Self::of_vcpu(vcpu);
        if gpa == own.message() {
            return Ok(own);
        }
        let area = gpa.wrapping_sub(vcpu_area::MESSAGE);
        if !is_nested_area(area) {
            return Err(format!(
                "doorbell with {gpa:#x}, its message page is {:#x}",
                own.message()
            ));
        }
        Self::nested(ram, vcpu, area)
            .ok_or_else(|| format!("doorbell with {gpa:#x}, where vCPU {vcpu} runs no guest"))
    }

    /// The one of a guest of vCPU `vcpu`'s own that has this stack pointer: its level is one deeper than
    /// the vCPU's where the stack is none of ours.
    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64", test))]
    pub(crate) fn of_guest(ram: &Ram, vcpu: u32, stack_pointer: u64) -> Self {
        let area = layout::area_of_stack(stack_pointer);
        let nested = is_nested_area(area).then(|| Self::nested(ram, vcpu, area)).flatten();
        nested.unwrap_or(Self { level: L1 + 1, ..Self::of_vcpu(vcpu) })
    }

    /// The one in a nested area, if a hypervisor on this vCPU has put one there.
    fn nested(ram: &Ram, vcpu: u32, area: u64) -> Option<Self> {
        let mut bytes = [0; size_of::<StartInfo>()];
        ram.read(area + vcpu_area::START_INFO, &mut bytes)?;
        let info = StartInfo::read_from_bytes(&bytes).ok()?;
        let valid = info.magic == MAGIC
            && info.version == PROTOCOL_VERSION
            && info.vcpu == vcpu
            && (L1 + 1..=MAX_LEVEL).contains(&info.level);
        valid.then_some(Self { vcpu, level: info.level, area })
    }

    /// Guest-physical address of its message page.
    pub(crate) fn message(&self) -> u64 {
        self.area + vcpu_area::MESSAGE
    }

    /// Whether an access at `address` has run out of its stack.
    #[cfg_attr(
        any(target_arch = "powerpc64", target_arch = "s390x"),
        expect(dead_code, reason = "there are no guard pages")
    )]
    pub(crate) fn is_below_stack(&self, address: u64) -> bool {
        let guard = self.area + vcpu_area::GUARD;
        (guard..guard + PAGE_SIZE).contains(&address)
    }
}

impl fmt::Display for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "vCPU {}", self.vcpu)?;
        if self.level > L1 {
            write!(f, " in L{}", self.level)?;
        }
        Ok(())
    }
}

fn is_nested_area(area: u64) -> bool {
    area.checked_sub(layout::NESTED_AREA).is_some_and(|offset| {
        offset % VCPU_AREA_SIZE == 0 && offset / VCPU_AREA_SIZE < layout::NR_NESTED_AREAS
    })
}

#[cfg(test)]
mod tests {
    use zerocopy::IntoBytes;

    use super::*;
    use crate::Mapping;

    fn ram_with(nth: u64, info: &StartInfo) -> Ram {
        let ram = Ram(Mapping::anonymous(layout::DEFAULT_RAM_SIZE as usize).expect("memory"));
        ram.write(layout::nested_area(nth) + vcpu_area::START_INFO, info.as_bytes()).expect("RAM");
        ram
    }

    const L2_OF_VCPU_3: StartInfo = StartInfo {
        magic: MAGIC,
        version: PROTOCOL_VERSION,
        entry: 0,
        vcpu: 3,
        level: 2,
        args: [0; 6],
        ram_size: 0,
    };

    #[test]
    fn contexts_are_found_by_message_page_and_stack() {
        let ram = ram_with(1, &L2_OF_VCPU_3);
        let area = layout::nested_area(1);
        let l2 = Context { vcpu: 3, level: 2, area };
        assert_eq!(Context::of_message(&ram, 3, area), Ok(l2));
        assert_eq!(Context::of_message(&ram, 3, layout::vcpu_area(3)), Ok(Context::of_vcpu(3)));
        // A stack that is empty points to the next area.
        for sp in [area + 1, area + 0x8000, area + VCPU_AREA_SIZE] {
            assert_eq!(Context::of_guest(&ram, 3, sp), l2);
        }
        for sp in [0, area, area + VCPU_AREA_SIZE + 1, u64::MAX] {
            assert_eq!(Context::of_guest(&ram, 3, sp).to_string(), "vCPU 3 in L2");
        }
        assert_eq!([l2, Context::of_vcpu(3)].map(|c| c.to_string()), ["vCPU 3 in L2", "vCPU 3"]);
    }

    #[test]
    fn areas_without_a_context_of_this_vcpu_are_refused() {
        let area = layout::nested_area(0);
        for wrong in [
            StartInfo { magic: 0, ..L2_OF_VCPU_3 },
            StartInfo { version: PROTOCOL_VERSION + 1, ..L2_OF_VCPU_3 },
            StartInfo { vcpu: 2, ..L2_OF_VCPU_3 },
            StartInfo { level: L1, ..L2_OF_VCPU_3 },
            StartInfo { level: MAX_LEVEL + 1, ..L2_OF_VCPU_3 },
        ] {
            let error = Context::of_message(&ram_with(0, &wrong), 3, area).unwrap_err();
            assert_eq!(error, format!("doorbell with {area:#x}, where vCPU 3 runs no guest"));
        }
        let ram = ram_with(0, &L2_OF_VCPU_3);
        for gpa in [0, area + 1, layout::vcpu_area(2), layout::NESTED_AREA - VCPU_AREA_SIZE] {
            let error = Context::of_message(&ram, 3, gpa).unwrap_err();
            assert!(error.ends_with("its message page is 0x130000"), "{error}");
        }
    }
}
