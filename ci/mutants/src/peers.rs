//! Other suites' tests on the same broken kernels: the Linux KVM selftests, built at run time from
//! the source that the kernel is built from, and kvm-unit-tests from a tree that a user has built.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use lab::find_program;
use serde::{Deserialize, Serialize};

use crate::kernel;
use crate::run::{Program, Stand};
use crate::source::Tree;

/// The selftests' place in the kernel source.
const SELFTESTS: &str = "tools/testing/selftests/kvm";
/// Where a name in `peers` that begins so comes from: kvm-unit-tests.
const UNIT: &str = "unit:";
/// Seconds that one test of theirs may take on an emulated host.
const DEADLINE: Duration = Duration::from_secs(120);
/// What a host may take longer to say so.
const GRACE: Duration = Duration::from_secs(15);
/// Where things are on the host.
const PLAN: &str = "/peers/plan";
/// The exit code of a kernel selftest that was skipped.
const SELFTEST_SKIPPED: &str = "4";
/// What QEMU's debug exit makes of a unit test's 0: twice that, and 1.
const UNIT_PASSED: &str = "1";
/// What a unit test needs of the machine that QEMU gives it.
const UNIT_MACHINE: &str = "-nodefaults -no-reboot -display none -serial stdio -device pc-testdev \
    -device isa-debug-exit,iobase=0xf4,iosize=0x4 -machine accel=kvm -m 128";
/// QEMU and its firmware on this machine.
const QEMU: &str = "qemu-system-x86_64";
const FIRMWARE: [&str; 2] = ["/usr/share/seabios", "/usr/share/qemu"];
const FIRMWARE_FILES: [&str; 4] =
    ["bios-256k.bin", "multiboot.bin", "multiboot_dma.bin", "kvmvapic.bin"];

/// How a test of another suite ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct End {
    /// The test.
    pub test: String,
    /// Whether it says that KVM is as it should be, or wrong; neither if it was skipped.
    pub verdict: Verdict,
    /// What it says.
    pub why: String,
}

/// What a test of another suite says about KVM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// All is well.
    Pass,
    /// Something is wrong.
    Fail,
    /// It did not look.
    Skip,
}

/// What other suites say about one mutant.
#[derive(Clone, Debug, Serialize)]
pub struct PeerFinding {
    /// The mutant.
    pub mutant: String,
    /// What our tests made of it, where a file of results was given.
    pub ours: Option<String>,
    /// The tests of theirs that claim its topic.
    pub claimed: Vec<String>,
    /// Those of them that pass on the unmutated kernel, as they ended on the mutant.
    pub ends: Vec<End>,
    /// Boot and tests.
    pub seconds: f64,
}

impl PeerFinding {
    /// The tests that saw the bug.
    pub fn caught_by(&self) -> impl Iterator<Item = &End> {
        self.ends.iter().filter(|end| end.verdict == Verdict::Fail)
    }
}

/// What our own results say of each mutant, from the JSON lines of `ci/mutants/run --json`.
///
/// # Errors
/// The file cannot be read, or is something else.
pub fn our_fates(path: &Path) -> anyhow::Result<BTreeMap<String, String>> {
    #[derive(Deserialize)]
    struct Line {
        mutant: String,
        fate: String,
    }
    let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let lines = text.lines().map(|line| {
        let line: Line = serde_json::from_str(line).with_context(|| path.display().to_string())?;
        Ok((line.mutant, line.fate))
    });
    lines.collect()
}

/// Programs of other suites, ready to run on a host.
#[derive(Debug)]
pub struct Peers {
    runner: PathBuf,
    selftests: BTreeMap<String, PathBuf>,
    units: Option<Units>,
}

impl Peers {
    /// Builds or finds what is named; what there is none of is left out.
    ///
    /// # Errors
    /// Nothing can be built.
    pub fn prepare(
        tree: &Tree,
        runner: PathBuf,
        names: &BTreeSet<String>,
        unit_tests: Option<&Path>,
        jobs: usize,
    ) -> anyhow::Result<Self> {
        let of_linux = names.iter().filter(|name| !name.starts_with(UNIT));
        let programs: BTreeSet<_> = of_linux.map(|name| program_of(name).to_owned()).collect();
        let selftests = build_selftests(tree, &programs.into_iter().collect::<Vec<_>>(), jobs)?;
        let units = unit_tests.map(Units::open).transpose()?;
        Ok(Self { runner, selftests, units })
    }

    /// Whether there is a test of that name.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        match (name.strip_prefix(UNIT), &self.units) {
            (Some(unit), Some(units)) => units.commands.contains_key(unit),
            (Some(_), None) => false,
            (None, _) => self.selftests.contains_key(program_of(name)),
        }
    }

    /// Boots a kernel and runs these tests on it; boots again when one took the host with it.
    ///
    /// # Errors
    /// The host cannot be started.
    pub fn run(
        &self,
        stand: &Stand,
        profile: &str,
        number: u32,
        names: &[String],
    ) -> anyhow::Result<Vec<End>> {
        let mut ends: Vec<End> = Vec::new();
        while ends.len() < names.len() {
            let more = self.run_some(stand, profile, number, &names[ends.len()..])?;
            if more.is_empty() {
                break;
            }
            ends.extend(more);
        }
        Ok(ends)
    }

    /// One boot: tests until the host died, if it did.
    fn run_some(
        &self,
        stand: &Stand,
        profile: &str,
        number: u32,
        names: &[String],
    ) -> anyhow::Result<Vec<End>> {
        let scratch = tempfile::tempdir()?;
        let plan = scratch.path().join("plan");
        let (mut lines, mut files) = (String::new(), BTreeMap::new());
        for name in names {
            lines += &self.plan_line(name, &mut files);
        }
        fs::write(&plan, lines)?;
        files.insert(PLAN.to_owned(), plan);
        let program = Program {
            runner: &self.runner,
            argv: vec![DEADLINE.as_secs().to_string(), PLAN.to_owned()],
            files: files.into_iter().collect(),
            timeout: (DEADLINE + GRACE) * u32::try_from(names.len())?,
            patience: DEADLINE + GRACE,
        };
        let (mut ends, mut running) = (Vec::new(), None);
        let mut on_line = |line: &str| match line.split('\t').collect::<Vec<_>>()[..] {
            ["start", name] => running = Some(name.to_owned()),
            ["end", name, how, why] => {
                running = None;
                ends.push(end(name, how, why));
            }
            _ => {}
        };
        let death = stand.host(profile, number, program, &mut on_line)?;
        if let (Some(test), Some(why)) = (running, death) {
            ends.push(End { test, verdict: Verdict::Fail, why });
        }
        Ok(ends)
    }

    /// The line of the runner's plan for a test; adds the files that it needs.
    fn plan_line(&self, name: &str, files: &mut BTreeMap<String, PathBuf>) -> String {
        match (name.strip_prefix(UNIT), &self.units) {
            (Some(unit), Some(units)) => {
                files.extend(units.files.clone());
                let (image, words) = &units.commands[unit];
                let place = format!("/peers/{unit}.flat");
                files.insert(place.clone(), image.clone());
                format!("{name}\t{}\t-kernel\t{place}\n", words.join("\t"))
            }
            _ => {
                let program = program_of(name);
                let place = format!("/peers/{}", program.replace('/', "_"));
                files.insert(place.clone(), self.selftests[program].clone());
                let words = name.split_whitespace().skip(1);
                let words: String = words.map(|word| format!("\t{word}")).collect();
                format!("{name}\t{place}{words}\n")
            }
        }
    }
}

/// The program of a selftest that is named with its arguments.
fn program_of(name: &str) -> &str {
    name.split_whitespace().next().unwrap_or_default()
}

/// What a program's end says.
fn end(name: &str, how: &str, why: &str) -> End {
    let verdict = match (name.starts_with(UNIT), how) {
        (true, UNIT_PASSED) | (false, "0") => Verdict::Pass,
        (false, SELFTEST_SKIPPED) => Verdict::Skip,
        _ => Verdict::Fail,
    };
    End { test: name.to_owned(), verdict, why: format!("{how}: {why}") }
}

/// Builds those of the named selftests that this kernel's source has.
fn build_selftests(
    tree: &Tree,
    names: &[String],
    jobs: usize,
) -> anyhow::Result<BTreeMap<String, PathBuf>> {
    let place = tree.selftests();
    let path = |name: &String| place.join(name);
    let known = |name: &&String| tree.source().join(SELFTESTS).join(format!("{name}.c")).exists();
    let there: Vec<_> = names.iter().filter(known).collect();
    if !there.is_empty() && there.iter().any(|name| !path(name).exists()) {
        fs::create_dir_all(&place).with_context(|| place.display().to_string())?;
        ensure!(kernel::make(tree, jobs).arg("headers").status()?.success(), "make headers fails");
        let mut make = Command::new("nice");
        make.args(["-n", "10", "make", "-s", "-k", "-C"]).arg(tree.source().join(SELFTESTS));
        make.arg(format!("-j{jobs}")).arg(format!("OUTPUT={}", place.display()));
        make.args(["USERLDFLAGS=-static -s", "USERCFLAGS=-w"]).args(there.iter().map(|n| path(n)));
        // What does not build is left out.
        make.output().context("make")?;
    }
    let built = there.into_iter().filter(|name| path(name).exists());
    Ok(built.map(|name| (name.clone(), path(name))).collect())
}

/// A built tree of kvm-unit-tests, and this machine's QEMU to run it with.
#[derive(Debug)]
struct Units {
    /// By test, its image and QEMU's command line.
    commands: BTreeMap<String, (PathBuf, Vec<String>)>,
    /// QEMU, its libraries and its firmware, by their place on the host.
    files: BTreeMap<String, PathBuf>,
}

impl Units {
    fn open(tree: &Path) -> anyhow::Result<Self> {
        let list = tree.join("x86/unittests.cfg");
        let text = fs::read_to_string(&list).with_context(|| list.display().to_string())?;
        let qemu = find_program(QEMU).with_context(|| format!("no {QEMU} on this machine"))?;
        let output = Command::new("ldd").arg(&qemu).output().context("ldd")?;
        let libraries = String::from_utf8_lossy(&output.stdout).into_owned();
        let mut files = BTreeMap::from([("/peers/qemu".to_owned(), qemu)]);
        for path in libraries.split_whitespace().filter(|word| word.starts_with('/')) {
            files.insert(path.to_owned(), PathBuf::from(path));
        }
        for file in FIRMWARE_FILES {
            let places = FIRMWARE.iter().map(|dir| Path::new(dir).join(file));
            if let Some(found) = places.into_iter().find(|place| place.exists()) {
                files.insert(format!("/peers/firmware/{file}"), found);
            }
        }
        let commands = parse_units(&text)
            .into_iter()
            .map(|(name, image, words)| (name, (tree.join("x86").join(image), words)))
            .filter(|(_, (image, _))| image.exists())
            .collect();
        Ok(Self { commands, files })
    }
}

/// Name, image and QEMU's command line of each test in `unittests.cfg`.
fn parse_units(text: &str) -> Vec<(String, String, Vec<String>)> {
    let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    let mut units: Vec<(String, String, Vec<String>)> = Vec::new();
    for line in text.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            let mut command = words("/peers/qemu -L /peers/firmware");
            command.extend(words(UNIT_MACHINE));
            units.push((name.to_owned(), String::new(), command));
            continue;
        }
        let Some((key, value)) = line.split_once('=') else { continue };
        let Some((_, image, command)) = units.last_mut() else { continue };
        match key.trim() {
            "file" => value.trim().clone_into(image),
            "smp" => command.extend(["-smp".to_owned(), value.trim().to_owned()]),
            // Words in quotes hold words for the test itself.
            "qemu_params" | "extra_params" if !value.contains(['\'', '"']) => {
                command.extend(words(value));
            }
            // What a shell would have to make is left out.
            "test_args" if !value.contains(['`', '$']) => {
                let arguments = value.trim().trim_matches(['\'', '"']);
                command.extend(["-append".to_owned(), arguments.to_owned()]);
            }
            _ => {}
        }
    }
    units
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exit_code_means_what_its_suite_says() {
        assert_eq!(end("a", "0", "").verdict, Verdict::Pass);
        assert_eq!(end("a", "4", "").verdict, Verdict::Skip);
        assert_eq!(end("a", "254", "").verdict, Verdict::Fail);
        assert_eq!(end("a", "timeout", "").verdict, Verdict::Fail);
        assert_eq!(end("unit:a", "1", "").verdict, Verdict::Pass);
        assert_eq!(end("unit:a", "0", "").verdict, Verdict::Fail);
    }

    #[test]
    fn unit_tests_are_read_from_their_list() {
        let text = "# c\n[apic]\nfile = apic.flat\nsmp = 2\nextra_params = -cpu host\n\
                    [msr]\nfile = msr.flat\nqemu_params = -cpu max\ntest_args = \"a b\"\n\
                    [clock]\nfile = clock.flat\ntest_args = `date`\n";
        let units = parse_units(text);
        assert_eq!((units[0].0.as_str(), units[0].1.as_str()), ("apic", "apic.flat"));
        assert!(units[0].2.ends_with(&["-smp", "2", "-cpu", "host"].map(str::to_owned)));
        assert_eq!(units[1].1, "msr.flat");
        assert!(units[1].2.ends_with(&["-cpu", "max", "-append", "a b"].map(str::to_owned)));
        assert!(!units[2].2.contains(&"-append".to_owned()));
    }
}
