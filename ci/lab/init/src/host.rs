//! The host's file systems, modules and facts.

use std::fs::{self, File};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use lab_init::Module;
use nix::errno::Errno;
use nix::kmod::{ModuleInitFlags, finit_module};
use nix::mount::{MsFlags, mount};

/// The longest wait for a clock source.
const CLOCKSOURCE_PATIENCE: Duration = Duration::from_secs(5);

/// Mounts what a runner expects of a host. What an older kernel lacks is left out.
pub fn mount_all() -> anyhow::Result<()> {
    for (kind, target, needed) in [
        ("proc", "/proc", true),
        ("sysfs", "/sys", true),
        ("devtmpfs", "/dev", true),
        ("tmpfs", "/dev/shm", false),
        ("devpts", "/dev/pts", false),
        ("tmpfs", "/tmp", true),
        ("tmpfs", "/run", false),
        ("debugfs", "/sys/kernel/debug", false),
        ("tracefs", "/sys/kernel/tracing", false),
        ("hugetlbfs", "/dev/hugepages", false),
    ] {
        let _ = fs::create_dir_all(target);
        match mount(Some(kind), target, Some(kind), MsFlags::empty(), None::<&str>) {
            Err(error) if needed && error != Errno::EBUSY => {
                return Err(error).with_context(|| format!("mount {kind} on {target}"));
            }
            _ => {}
        }
    }
    for (link, target) in [("/dev/fd", "/proc/self/fd"), ("/dev/stdin", "/proc/self/fd/0")] {
        let _ = std::os::unix::fs::symlink(target, link);
    }
    Ok(())
}

/// Loads the modules in order. Returns which needed ones did not load, and why.
pub fn load_modules(modules: &[Module]) -> Vec<String> {
    let mut trouble = Vec::new();
    for module in modules {
        if module.path.is_empty() && !module.needed {
            continue; // Built in, or not of this kernel's time.
        }
        if let Err(error) = load(module) {
            let text = format!("module {}: {error:#}", module.name);
            eprintln!("lab-init: {text}");
            if module.needed {
                trouble.push(text);
            }
        }
    }
    trouble
}

fn load(module: &Module) -> anyhow::Result<()> {
    anyhow::ensure!(!module.path.is_empty(), "this kernel has none");
    let file = File::open(&module.path).with_context(|| module.path.clone())?;
    let params = std::ffi::CString::new(module.params.as_str())?;
    match finit_module(&file, &params, ModuleInitFlags::empty()) {
        Ok(()) | Err(Errno::EEXIST) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Switches on what hangs on an s390x host's channels and has a driver, such as a tape.
pub fn switch_on_channel_devices() {
    for device in fs::read_dir("/sys/bus/ccw/devices").into_iter().flatten().flatten() {
        // A console is on by itself and refuses.
        let _ = fs::write(device.path().join("online"), "1");
    }
}

/// Why there is no usable `/dev/kvm`, or `None` if there is one.
pub fn why_no_kvm(trouble: &[String]) -> Option<String> {
    let error = match fs::OpenOptions::new().read(true).write(true).open("/dev/kvm") {
        Ok(_) => return None,
        Err(error) => error,
    };
    let mut why = vec![format!("/dev/kvm: {error}")];
    why.extend_from_slice(trouble);
    why.extend(kernel_log_about_kvm());
    Some(why.join("; "))
}

fn kernel_log_about_kvm() -> Vec<String> {
    let mut lines = Vec::new();
    let Ok(file) = File::open("/dev/kmsg") else {
        return lines;
    };
    let flags = nix::fcntl::OFlag::O_NONBLOCK;
    if nix::fcntl::fcntl(&file, nix::fcntl::FcntlArg::F_SETFL(flags)).is_err() {
        return lines;
    }
    let mut record = [0u8; 8192];
    while let Ok(length) = nix::unistd::read(&file, &mut record) {
        let text = String::from_utf8_lossy(&record[..length]);
        let Some((_, message)) = text.lines().next().and_then(|line| line.split_once(';')) else {
            continue;
        };
        let lower = message.to_lowercase();
        if lower.contains("kvm") && !lower.contains("command line") {
            lines.push(message.to_owned());
        }
    }
    lines
}

/// Module parameters and the like, reported once a boot.
pub fn facts() -> Vec<(String, String)> {
    let mut facts = Vec::new();
    for module in ["kvm", "kvm_amd", "kvm_intel", "kvm_hv", "kvm_arm"] {
        let Ok(entries) = fs::read_dir(format!("/sys/module/{module}/parameters")) else {
            continue;
        };
        for entry in entries.flatten() {
            if let Ok(value) = fs::read_to_string(entry.path()) {
                let name = entry.file_name().to_string_lossy().into_owned();
                facts.push((format!("{module}.{name}"), value.trim().to_owned()));
            }
        }
    }
    facts.sort();
    facts
}

/// Waits until the kernel has switched to the clock source, if it ever does.
pub fn wait_for_clocksource(wanted: &str) {
    let base = Path::new("/sys/devices/system/clocksource/clocksource0");
    let deadline = Instant::now() + CLOCKSOURCE_PATIENCE;
    while Instant::now() < deadline {
        match fs::read_to_string(base.join("current_clocksource")) {
            Ok(current) if current.trim() != wanted => {}
            _ => return,
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// `uname -r`.
pub fn release() -> String {
    nix::sys::utsname::uname()
        .map(|name| name.release().to_string_lossy().into_owned())
        .unwrap_or_default()
}
