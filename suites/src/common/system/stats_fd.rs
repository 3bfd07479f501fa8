//! Binary statistics (api.rst 4.133, KVM_GET_STATS_FD).
use crate::prelude::*;

#[guest]
fn stops_twice(g: &mut Guest) {
    g.sync(1, &[]);
    g.sync(2, &[]);
}

#[host]
mod host {
    use super::*;
    use std::{
        collections::HashSet, fs::File, os::fd::AsRawFd, os::unix::fs::FileExt,
        os::unix::fs::MetadataExt,
    };
    use vm::bindings::*;

    kvm_tests! { requires(cap::BINARY_STATS_FD) }

    /// Bytes of `struct kvm_stats_header`.
    const HEADER: u64 = size_of::<kvm_stats_header>() as u64;
    /// Bytes of `struct kvm_stats_desc` before its name.
    const DESC: u64 = 16;

    /// What a statistics descriptor holds.
    struct Stats {
        file: File,
        flags: u32,
        name_size: u64,
        id_offset: u64,
        data_offset: u64,
        descs: Vec<Desc>,
    }

    /// `struct kvm_stats_desc`.
    struct Desc {
        flags: u32,
        exponent: i16,
        size: u16,
        offset: u32,
        bucket_size: u32,
        name: Vec<u8>,
    }

    impl Desc {
        fn field(&self, mask: u32) -> u32 {
            self.flags & mask
        }

        fn name(&self) -> String {
            String::from_utf8_lossy(&self.name).trim_end_matches('\0').to_owned()
        }
    }

    /// KVM names a VM by its process's id in the initial namespace, which no other namespace knows.
    fn in_the_initial_pid_namespace() -> bool {
        /// PROC_PID_INIT_INO of the kernel.
        const INITIAL: u64 = 0xefff_fffc;
        std::fs::metadata("/proc/self/ns/pid").is_ok_and(|namespace| namespace.ino() == INITIAL)
    }

    impl Stats {
        fn open(fd: &impl AsRawFd) -> TestResult<Self> {
            let file: File = raw_ioctl_fd(fd, request::KVM_GET_STATS_FD, &mut [])
                .ioctl("KVM_GET_STATS_FD")?
                .into();
            let header = Self::bytes(&file, 0, HEADER)?;
            let word = |i: usize| u32::from_ne_bytes([0, 1, 2, 3].map(|b| header[4 * i + b]));
            let (name_size, desc_offset) = (u64::from(word(1)), u64::from(word(4)));
            let descs = (0..u64::from(word(2))).map(|i| {
                let b = Self::bytes(&file, desc_offset + i * (DESC + name_size), DESC + name_size)?;
                Ok(Desc {
                    flags: u32::from_ne_bytes([b[0], b[1], b[2], b[3]]),
                    exponent: i16::from_ne_bytes([b[4], b[5]]),
                    size: u16::from_ne_bytes([b[6], b[7]]),
                    offset: u32::from_ne_bytes([b[8], b[9], b[10], b[11]]),
                    bucket_size: u32::from_ne_bytes([b[12], b[13], b[14], b[15]]),
                    name: b[DESC as usize..].to_vec(),
                })
            });
            let descs = descs.collect::<TestResult<Vec<Desc>>>()?;
            let (id_offset, data_offset) = (word(3).into(), word(5).into());
            Ok(Self { flags: word(0), name_size, id_offset, data_offset, descs, file })
        }

        /// All of `len` bytes at `offset`.
        fn bytes(file: &File, offset: u64, len: u64) -> TestResult<Vec<u8>> {
            let mut bytes = vec![0; len as usize];
            file.read_exact_at(&mut bytes, offset).map_err(|e| {
                Failure::Fail(format!("{len} bytes at {offset:#x} of the statistics: {e}"))
            })?;
            Ok(bytes)
        }

        /// Bytes of the data block.
        fn data_size(&self) -> u64 {
            let end = |d: &Desc| u64::from(d.offset) + 8 * u64::from(d.size);
            self.descs.iter().map(end).max().unwrap_or(0)
        }

        /// The statistic `exits`, which x86, arm64 and riscv have.
        fn exits(&self) -> TestResult<u64> {
            let exits = self.descs.iter().find(|d| d.name() == "exits");
            require!(exits.is_some(), "the statistic `exits`");
            let offset = exits.map_or(0, |d| d.offset.into());
            let bytes = Self::bytes(&self.file, self.data_offset + offset, 8)?;
            Ok(u64::from_ne_bytes(bytes.try_into().unwrap_or_default()))
        }

        fn check_layout(&self) -> TestResult {
            check_eq!("the statistics header has no flags", self.flags, 0);
            check!("names of statistics have a size", self.name_size > 0);
            check!("at least one statistic is described", !self.descs.is_empty());
            check!("the statistics' id lies behind the header", self.id_offset >= HEADER);
            let id = Self::bytes(&self.file, self.id_offset, self.name_size)?;
            let id = String::from_utf8_lossy(&id).trim_end_matches('\0').to_owned();
            let process = id.strip_prefix("kvm-").unwrap_or_default();
            let process = process.split('/').next().unwrap_or_default().parse::<u32>();
            check!("the statistics' id is kvm- and a number", process.is_ok(), "{id}");
            if in_the_initial_pid_namespace() {
                check_eq!(
                    "the statistics' id names the process",
                    process.unwrap_or_default(),
                    std::process::id()
                );
            }

            let mut names = HashSet::new();
            let mut taken = HashSet::new();
            for d in &self.descs {
                let name = d.name();
                check!("every name ends in a zero", d.name.contains(&0), "{:?}", d.name);
                check!(
                    "every name of a statistic is there once",
                    !name.is_empty() && names.insert(name.clone()),
                    "{name}"
                );
                let kind = d.field(KVM_STATS_TYPE_MASK);
                check!(
                    "every statistic has a known type",
                    kind <= KVM_STATS_TYPE_MAX,
                    "{name}: {kind}"
                );
                let unit = d.field(KVM_STATS_UNIT_MASK);
                check!(
                    "every statistic has a known unit",
                    unit <= KVM_STATS_UNIT_MAX,
                    "{name}: {unit:#x}"
                );
                let base = d.field(KVM_STATS_BASE_MASK);
                check!(
                    "every statistic has a known base",
                    base <= KVM_STATS_BASE_POW2,
                    "{name}: {base:#x}"
                );
                let known = KVM_STATS_TYPE_MASK | KVM_STATS_UNIT_MASK | KVM_STATS_BASE_MASK;
                check_eq!("no unknown flag of a statistic is set", d.field(!known), 0);

                // Bytes count up in KiB and MiB, seconds down in ms and ns; a number has no scale.
                let fits = match unit {
                    KVM_STATS_UNIT_NONE | KVM_STATS_UNIT_BOOLEAN => d.exponent == 0,
                    KVM_STATS_UNIT_BYTES => d.exponent >= 0,
                    KVM_STATS_UNIT_SECONDS => d.exponent <= 0 && base == KVM_STATS_BASE_POW10,
                    _ => true,
                };
                check!(
                    "every statistic's scale fits its unit",
                    fits,
                    "{name}: unit {unit:#x} exponent {}",
                    d.exponent
                );
                let histogram =
                    matches!(kind, KVM_STATS_TYPE_LINEAR_HIST | KVM_STATS_TYPE_LOG_HIST);
                check!(
                    "a statistic that is no histogram is one value",
                    histogram || d.size == 1,
                    "{name}: {}",
                    d.size
                );
                check!("a histogram has buckets", !histogram || d.size > 1, "{name}: {}", d.size);
                let linear = kind == KVM_STATS_TYPE_LINEAR_HIST;
                check!(
                    "a linear histogram, and nothing else, has a bucket size",
                    linear == (d.bucket_size != 0),
                    "{name}: {}",
                    d.bucket_size
                );
                check_eq!("values of statistics are aligned to 8 bytes", d.offset % 8, 0);
                let apart = (0..u32::from(d.size)).all(|i| taken.insert(d.offset + 8 * i));
                check!("values of statistics do not overlap", apart, "{name} at {:#x}", d.offset);
            }
            let ends = self.id_offset + self.name_size;
            check!(
                "the statistics' id and data do not overlap",
                self.data_offset >= ends || self.id_offset >= self.data_offset + self.data_size()
            );
            Ok(())
        }

        /// What a reader gets who asks for the wrong thing.
        fn check_reads(&self) -> TestResult {
            let read = |offset: u64, len: usize| {
                let mut bytes = vec![0; len];
                self.file.read_at(&mut bytes, offset).map_err(|e| e.raw_os_error())
            };
            let end = self.data_offset + self.data_size();
            let whole = Self::bytes(&self.file, 0, HEADER)?;
            let halves = [
                Self::bytes(&self.file, 0, HEADER / 2)?,
                Self::bytes(&self.file, HEADER / 2, HEADER / 2)?,
            ];
            check_eq!("the header is the same in two reads", halves.concat(), whole);
            check_eq!("a read of no bytes returns nothing", read(0, 0), Ok(0));
            check_eq!("a read across the end stops there", read(end - 8, 64), Ok(8));
            check_eq!("a read at the statistics' end returns nothing", read(end, 8), Ok(0));
            check_eq!(
                "a read behind the statistics' end returns nothing",
                read(end + 4096, 8),
                Ok(0)
            );
            check_eq!("a read at 2^62 returns nothing", read(1 << 62, 8), Ok(0));
            let write = self.file.write_at(&[0; 8], self.data_offset).map_err(|e| e.raw_os_error());
            check!("statistics cannot be written", write.is_err(), "{write:?}");
            Ok(())
        }
    }

    /// api.rst 4.133: a VM's statistics describe themselves, and reads end where the data do.
    #[kvm_test]
    fn vm_statistics_describe_themselves(t: &mut OneVm) -> TestResult {
        let stats = Stats::open(&t.vm)?;
        stats.check_layout()?;
        stats.check_reads()
    }

    /// api.rst 4.133: so do a vCPU's.
    #[kvm_test(stops_twice)]
    fn vcpu_statistics_describe_themselves(t: &mut OneVcpu) -> TestResult {
        let stats = Stats::open(&t.vcpu)?;
        stats.check_layout()?;
        stats.check_reads()
    }

    /// api.rst 4.133: data are read live, on every descriptor of the vCPU; another vCPU counts for itself.
    #[kvm_test(stops_twice, sees(moved: "reads statistics, which are of one VM"))]
    fn statistics_count_what_the_vcpu_does(t: &mut OneVcpu) -> TestResult {
        let mut other = t.vm.add_vcpu(1, guest_fn!(stops_twice))?;
        let (stats, twin, idle) =
            (Stats::open(&t.vcpu)?, Stats::open(&t.vcpu)?, Stats::open(&other)?);
        let fresh = stats.exits()?;
        t.vcpu.run_until_sync(1)?;
        let first = stats.exits()?;
        check!("a run counts an exit", first > fresh, "{fresh}, then {first}");
        check_eq!("both descriptors of a vCPU have the same count", twin.exits()?, first);
        check_eq!("nothing is counted while the vCPU does not run", stats.exits()?, first);
        t.vcpu.run_until_sync(2)?;
        check!("another run of the vCPU counts another exit", twin.exits()? > first);
        check_eq!("a vCPU that did not run has no exits", idle.exits()?, 0);
        let before = stats.exits()?;
        other.run_until_sync(1)?;
        check!("the second vCPU counts its own exits", idle.exits()? > 0);
        check_eq!("the second vCPU's exits are not counted for the first", stats.exits()?, before);
        Ok(())
    }

    /// Statistics are of the vCPU, not of the descriptor: they can be read after the vCPU's is closed.
    #[kvm_test(stops_twice)]
    fn statistics_outlive_the_vcpu_descriptor(t: &mut OneVm) -> TestResult {
        let mut vcpu = t.vm.add_vcpu(0, guest_fn!(stops_twice))?;
        vcpu.run_until_sync(1)?;
        let stats = Stats::open(&vcpu)?;
        let before = stats.exits()?;
        drop(vcpu);
        check_eq!("the count stays when the vCPU's descriptor is closed", stats.exits()?, before);
        let mut again = vec![0; HEADER as usize];
        let got = stats.file.read_at(&mut again, 0).map_err(|e| e.raw_os_error());
        check_eq!("the header can still be read", got, Ok(HEADER as usize));
        Ok(())
    }
}
