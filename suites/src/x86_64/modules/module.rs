//! Loading and unloading KVM's modules: with every boolean parameter flipped a guest runs, a module in
//! use stays, and nothing is left behind. Only on hosts of the lab, alone, and on request.
use crate::prelude::*;

const PORT: u16 = 0x93;
const MARK: u32 = 0x600d_600d;
const PAGES: u64 = 8;

/// A port, a trap and memory.
#[guest]
fn works_a_little(g: &mut Guest) {
    let answer = inl(PORT);
    let trap = ud2_safe().err().map(|trap| trap.vector);
    (0..PAGES).for_each(|page| poke(layout::FREE + page * layout::PAGE_SIZE, page + 1));
    let sum: u64 =
        (0..PAGES).map(|page| peek::<u64>(layout::FREE + page * layout::PAGE_SIZE)).sum();
    g.sync(1, &[answer.into(), trap.map_or(0, u64::from), sum]);
}

#[host]
mod host {
    use super::*;
    use std::fs;
    use vm::Module;

    kvm_tests! { requires(host::EXPENDABLE) }

    const SLOT: u32 = 1;

    /// The two modules, the backend's first: the order in which they are unloaded.
    fn modules() -> TestResult<[Module; 2]> {
        let backend = Module::backend();
        require!(backend.is_some(), "kvm_amd or kvm_intel as a module");
        let modules = [backend.unwrap_or_else(Module::kvm), Module::kvm()];
        require!(modules.iter().all(Module::is_there), "the modules' files in /lib/modules");
        require!(modules[1].is_loaded(), "kvm as a module");
        Ok(modules)
    }

    /// Whether a guest runs in a fresh VM.
    fn a_guest_runs(config: &VmConfig) -> TestResult<bool> {
        System::get()?.take_back()?;
        let run = || -> TestResult<bool> {
            let mut vm = Vm::new(config)?;
            vm.add_memory(
                SLOT,
                bindings::KVM_MEM_LOG_DIRTY_PAGES,
                layout::FREE,
                PAGES * layout::PAGE_SIZE,
            )?;
            let mut vcpu = vm.add_vcpu(0, guest_fn!(works_a_little))?;
            vcpu.run_until(Exit::io_in(PORT))?.set_data(&MARK.to_ne_bytes());
            let [answer, trap, sum, ..] = vcpu.run_until_sync(1)?;
            let right =
                [answer, trap, sum] == [MARK.into(), vector::UD.into(), PAGES * (PAGES + 1) / 2];
            let dirty = vm.dirty_pages(SLOT, PAGES).ioctl("KVM_GET_DIRTY_LOG")?;
            vcpu.run_until_done()?;
            Ok(right && dirty.len() as u64 == PAGES)
        };
        let ran = run();
        System::get()?.let_go()?;
        ran
    }

    /// Parameters in one word for `finit_module`.
    fn words(parameters: &[(String, String)]) -> String {
        let words: Vec<String> =
            parameters.iter().map(|(name, value)| format!("{name}={value}")).collect();
        words.join(" ")
    }

    /// What the modules were loaded with, so that they can be loaded so again.
    struct Restore<'a> {
        modules: &'a [Module; 2],
        nested: Option<String>,
    }

    impl Restore<'_> {
        fn new(modules: &[Module; 2]) -> Restore<'_> {
            Restore { modules, nested: modules[0].parameters().get("nested").cloned() }
        }
    }

    impl Drop for Restore<'_> {
        /// Leaves a host on which the next test finds KVM.
        fn drop(&mut self) {
            let nested =
                self.nested.as_ref().map_or(String::new(), |value| format!("nested={value}"));
            let [backend, kvm] = self.modules;
            if !kvm.is_loaded() {
                let _ = kvm.load("");
            }
            if !backend.is_loaded() {
                let _ = backend.load(&nested);
            }
        }
    }

    fn unload_both(modules: &[Module; 2]) -> TestResult {
        let [backend, kvm] = modules;
        backend.unload().ioctl("delete_module of the backend")?;
        kvm.unload().ioctl("delete_module of kvm")
    }

    /// Parameters whose use taints the kernel, as its own documentation says: a run would end as a host bug.
    const TAINTING: [&str; 1] = ["force_avic"];

    /// Each boolean parameter of each module can be the other way round: the module loads, a parameter that
    /// was switched off is off, and a guest runs.
    #[kvm_test(without_kvm, groups("module", "nodefault"))]
    fn every_boolean_parameter_can_be_flipped(t: &mut HostOnly) -> TestResult {
        let modules = modules()?;
        let _restore = Restore::new(&modules);
        let [backend, kvm] = &modules;
        check!("a guest runs before the reloads", a_guest_runs(&t.setup.config)?);
        for (module, other) in [(backend, kvm), (kvm, backend)] {
            for (name, value) in module.parameters() {
                if TAINTING.contains(&name.as_str()) {
                    continue;
                }
                let flipped = match value.as_str() {
                    "Y" => "N",
                    "N" => "Y",
                    "1" if name == "nested" => "0",
                    "0" if name == "nested" => "1",
                    _ => continue,
                };
                unload_both(&modules)?;
                let (module_name, setting) =
                    (module.name(), words(&[(name.clone(), flipped.into())]));
                let settings =
                    |of: &Module| if of == module { setting.clone() } else { String::new() };
                let loaded =
                    kvm.load(&settings(kvm)).and_then(|()| backend.load(&settings(backend)));
                check_eq!("{module_name} {setting}: the modules load", loaded, Ok(()));
                if loaded.is_err() {
                    continue;
                }
                let got = module.parameters().remove(&name).unwrap_or_default();
                let off = matches!(flipped, "N" | "0");
                check!(
                    "{module_name} {setting}: the disabled feature is absent",
                    !off || got == flipped,
                    "{got}"
                );
                check!(
                    "{module_name} {setting}: a guest runs on it",
                    a_guest_runs(&t.setup.config)?
                );
                check!("{module_name} {setting}: the other module is loaded", other.is_loaded());
            }
        }
        unload_both(&modules)?;
        drop(_restore);
        check!("a guest runs after the reloads", a_guest_runs(&t.setup.config)?);
        Ok(())
    }

    /// A module that something uses is not unloaded: EWOULDBLOCK of delete_module(2), whatever of KVM is
    /// open; and it is once nothing is.
    #[kvm_test(without_kvm, groups("module", "nodefault"))]
    fn module_in_use_stays(t: &mut HostOnly) -> TestResult {
        let modules = modules()?;
        let _restore = Restore::new(&modules);
        let [backend, kvm] = &modules;
        let busy = Err(Errno::EWOULDBLOCK);
        check_eq!("kvm stays while the backend is loaded", kvm.unload(), busy);

        let system = System::get()?;
        system.take_back()?;
        check_eq!("the backend stays while /dev/kvm is open", backend.unload(), busy);
        let mut vm = Vm::new(&t.setup.config)?;
        system.let_go()?;
        check_eq!("the backend stays while a VM is open", backend.unload(), busy);
        let vcpu = vm.create_vcpu(0);
        // The vCPU's CPUID was made before; only its descriptor matters here.
        let vcpu = vcpu?;
        drop(vm);
        check_eq!("the backend stays while a vCPU is open", backend.unload(), busy);
        check_eq!("kvm stays while a vCPU is open", kvm.unload(), busy);
        drop(vcpu);
        check_eq!("the backend unloads when nothing is open", backend.unload(), Ok(()));
        check!("/dev/kvm is gone without the backend", !fs::exists("/dev/kvm").unwrap_or(true));
        check_eq!("kvm unloads without the backend", kvm.unload(), Ok(()));
        check_eq!("unloading an absent module is ENOENT", kvm.unload(), Err(Errno::ENOENT));
        check_eq!("the backend does not load without kvm", backend.load(""), Err(Errno::ENOENT));
        check_eq!("kvm loads again after unloading", kvm.load(""), Ok(()));
        check_eq!("loading a module twice is EEXIST", kvm.load(""), Err(Errno::EEXIST));
        check_eq!("the backend loads again", backend.load(""), Ok(()));
        check!("a guest runs after loading again", a_guest_runs(&t.setup.config)?);
        Ok(())
    }

    const RELOADS: usize = 50;
    /// Unexplained growth that 50 reloads may cause; a leak of one page in each is as much.
    const TOLERANCE_KIB: i64 = 200;

    /// A value of `/proc/meminfo`, in KiB.
    fn meminfo(key: &str) -> i64 {
        let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let line =
            text.lines().find_map(|line| line.strip_prefix(key).and_then(|l| l.strip_prefix(':')));
        line.and_then(|l| l.split_whitespace().next()).and_then(|n| n.parse().ok()).unwrap_or(0)
    }

    /// Slab caches by KVM's names.
    fn caches() -> Vec<String> {
        let text = fs::read_to_string("/proc/slabinfo").unwrap_or_default();
        let names = text.lines().filter_map(|line| line.split_whitespace().next());
        let ours = ["kvm_", "x86_emulator", "pte_list_desc", "vmx_", "svm_"];
        names.filter(|name| ours.iter().any(|of| name.starts_with(of))).map(str::to_owned).collect()
    }

    /// Reloading leaves nothing behind: no file in debugfs or /dev, no slab cache, no memory; and after all
    /// of it a guest runs.
    #[kvm_test(without_kvm, groups("module", "nodefault"))]
    fn reloads_leave_nothing_behind(t: &mut HostOnly) -> TestResult {
        let modules = modules()?;
        let _restore = Restore::new(&modules);
        let [backend, kvm] = &modules;
        let reload = || -> TestResult {
            unload_both(&modules)?;
            for path in
                ["/dev/kvm", "/sys/kernel/debug/kvm", "/sys/module/kvm", "/sys/class/misc/kvm"]
            {
                check!("unloading removes {path} from the host", !fs::exists(path).unwrap_or(true));
            }
            check_eq!("unloading leaves no slab cache", caches(), Vec::<String>::new());
            kvm.load("").ioctl("finit_module of kvm")?;
            backend.load("").ioctl("finit_module of the backend")
        };
        // The first rounds fill caches of the kernel's own.
        for _ in 0..5 {
            reload()?;
        }
        let keys = ["SUnreclaim", "Percpu", "VmallocUsed", "KernelStack"];
        let before = keys.map(meminfo);
        for nr in 0..RELOADS {
            reload()?;
            if nr % 10 == 0 {
                check!("a guest runs after each reload", a_guest_runs(&t.setup.config)?);
            }
        }
        for (key, before) in keys.into_iter().zip(before) {
            let grown = meminfo(key) - before;
            check!("the reloads do not grow {key}", grown < TOLERANCE_KIB, "{grown} KiB");
        }
        Ok(())
    }
}
