//! Builds the payload for this host with the toolchain at hand, and leaves it in OUT_DIR.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use defs::arch::Arch;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if env::var_os("CARGO_CFG_KVM_GUEST").is_some() {
        return;
    }
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace's root");
    for input in ["guest", "suites/src", "suites/macros", "Cargo.toml", "Cargo.lock"] {
        println!("cargo::rerun-if-changed={}", root.join(input).display());
    }
    let orphans = orphans(&root.join("suites/src"));
    if !orphans.is_empty() {
        orphans.iter().for_each(|message| println!("cargo::error={message}"));
        return;
    }
    let target = env::var("TARGET").expect("cargo sets TARGET");
    let arch = env::var("CARGO_CFG_TARGET_ARCH").expect("cargo sets the target's architecture");
    let arch = Arch::of_target_arch(&arch).expect("an architecture with tests");
    // For the macros that embed data: they run here, and cannot know for which target.
    println!("cargo::rustc-env=KVM_CONFORMANCE_ARCH={arch}");
    let script = root.join(format!("guest/runtime/link/{arch}.ld"));

    let flags = [
        "--cfg",
        "kvm_guest",
        "-A",
        "dead_code",
        "-A",
        "unused",
        "-C",
        "panic=abort",
        "-C",
        "relocation-model=static",
        "-C",
        "no-redzone=yes",
        "-C",
        "force-frame-pointers=yes",
        "-C",
        "link-arg=-nostartfiles",
        "-C",
        "link-arg=-nostdlib",
        "-C",
        "link-arg=-static",
        "-C",
        "link-arg=-no-pie",
        "-C",
        "link-arg=-Wl,--build-id=none",
        "-C",
        "link-arg=-Wl,-z,nostart-stop-gc",
        "-C",
        "link-arg=-Wl,-z,noexecstack",
        // Three quarters of the payload, of use when a test has failed.
        "-C",
        "link-arg=-Wl,--compress-debug-sections=zlib",
    ];
    let mut flags: Vec<String> = flags.iter().map(|f| f.to_string()).collect();
    let features = scalar_code(arch);
    if !features.is_empty() {
        flags.extend(["-C".into(), format!("target-feature={features}")]);
    }
    flags.extend(["-C".into(), format!("link-arg=-Wl,-T,{}", script.display())]);

    // Beside the runner's own target directory, shared by its profiles: the payload is the same.
    let payload_target =
        out.ancestors().nth(4).expect("OUT_DIR lies in a target directory").join("payload");
    let mut cargo = Command::new(env::var_os("CARGO").expect("cargo sets CARGO"));
    // What the outer build (clippy, a coverage tool, a cross build) wants of rustc is not for the guest.
    for (name, _) in env::vars() {
        let outer =
            ["RUSTC_WRAPPER", "RUSTC_WORKSPACE_WRAPPER", "RUSTFLAGS", "CARGO_BUILD_RUSTFLAGS"];
        let of_outer = ["CARGO_FEATURE_", "CARGO_PROFILE_"].iter().any(|p| name.starts_with(p));
        if outer.contains(&name.as_str()) || of_outer {
            cargo.env_remove(name);
        }
    }
    cargo
        .args(["build", "--quiet", "--release", "--package", "guest-payload", "--target", &target])
        .arg("--manifest-path")
        .arg(root.join("Cargo.toml"))
        .arg("--target-dir")
        .arg(&payload_target)
        .env("CARGO_PROFILE_RELEASE_DEBUG", "line-tables-only")
        .env("CARGO_PROFILE_RELEASE_LTO", "fat")
        .env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "1")
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"));
    let status = cargo.status().expect("cargo runs");
    assert!(status.success(), "the payload does not build");
    let built = payload_target.join(&target).join("release/guest-payload");
    fs::copy(&built, out.join("payload.elf")).expect("the payload was built");
}

/// Files of tests that no `mod` names: they would never be compiled, and nobody would notice.
fn orphans(folder: &Path) -> Vec<String> {
    let is_rust = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "rs");
    let entries = |folder: &Path| {
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).collect::<Vec<_>>()
    };
    let here = entries(folder);
    // A module is named in its own folder or, without a `mod.rs` there, beside that.
    let above = folder.parent().map(entries).unwrap_or_default();
    let naming = here.iter().chain(&above).filter(|path| is_rust(path));
    let named: String = naming.filter_map(|path| fs::read_to_string(path).ok()).collect();
    let has = |name: &str| {
        [format!("mod {name};"), format!("mod {name} "), format!("{name}.rs\"")]
            .iter()
            .any(|way| named.contains(way))
    };
    let is_root = |path: &Path| ["lib.rs", "main.rs", "mod.rs"].iter().any(|r| path.ends_with(r));
    let mut found = Vec::new();
    for path in &here {
        if path.is_dir() {
            found.extend(orphans(path));
        }
        let name = path.file_stem().unwrap_or_default().to_string_lossy();
        let is_module = is_rust(path) || path.join("mod.rs").exists();
        if is_module && !is_root(path) && !has(&name) {
            let (path, folder) = (path.display(), folder.display());
            found.push(format!(
                "{path} is not compiled: name it in {folder}/mod.rs (`pub mod {name};`)"
            ));
        }
    }
    found
}

/// The target features that leave vector registers, and calls to what knows of them, out of the
/// payload. Link-time optimization compiles the prebuilt `core` anew with them.
fn scalar_code(arch: Arch) -> &'static str {
    match arch {
        Arch::X86_64 => "-mmx,-sse,-sse2,+soft-float",
        Arch::Aarch64 => "-neon,-outline-atomics",
        // The target has floating-point registers but no vectors, and nothing here uses them.
        Arch::Riscv64 => "",
        Arch::Ppc64le => "-vsx,-altivec",
        // A chain of frames, for backtraces.
        Arch::S390x => "+backchain,-vector",
    }
}
