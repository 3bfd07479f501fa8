//! Other suites' tests on the same broken kernels, as programs of the one runner: the Linux KVM
//! selftests, built at run time from the source that the kernel is built from, and kvm-unit-tests from a
//! tree that a user has built.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use lab::find_program;
use results::journal::TestReport;
use results::outcome::Outcome;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::kernel;
use crate::run::{self, Boot, Stand, Tests};
use crate::source::Tree;

/// The selftests' place in the kernel source.
const SELFTESTS: &str = "tools/testing/selftests/kvm";
/// Where a name in `peers` that begins so comes from: kvm-unit-tests.
const UNIT: &str = "unit:";
/// The suite of all of them, for the runner.
const SUITE: &str = "peers";
/// Time that one test of theirs may take on an emulated host.
const DEADLINE: Duration = Duration::from_secs(120);
/// What a host may take longer to say so.
const GRACE: Duration = Duration::from_secs(15);
/// Address space of one: they map guests larger than the host, and QEMU.
const MEMORY: &str = "16384GiB";
/// Where things are on the host.
const LIST: &str = "/peers/list.yaml";
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
    /// What it says about KVM, or that it did not look.
    pub verdict: Outcome,
    /// Why.
    pub why: String,
}

impl From<&TestReport> for End {
    fn from(result: &TestReport) -> Self {
        // Most of them have but one check, whose name says less than its reason.
        let why = result.reason.clone().unwrap_or_default();
        Self { test: result.test.clone(), verdict: result.outcome, why }
    }
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
        self.ends.iter().filter(|end| run::is_red(end.verdict))
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
        names: &BTreeSet<String>,
        unit_tests: Option<&Path>,
        jobs: usize,
    ) -> anyhow::Result<Self> {
        let of_linux = names.iter().filter(|name| !name.starts_with(UNIT));
        let programs: BTreeSet<_> = of_linux.map(|name| program_of(name).to_owned()).collect();
        let selftests = build_selftests(tree, &programs.into_iter().collect::<Vec<_>>(), jobs)?;
        let units = unit_tests.map(Units::open).transpose()?;
        Ok(Self { selftests, units })
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
        let mut left = names.to_vec();
        while !left.is_empty() {
            let more = self.run_some(stand, profile, number, &left)?;
            if more.is_empty() {
                break;
            }
            left.retain(|name| !more.iter().any(|end| end.test == *name));
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
        let list = scratch.path().join("list");
        let (text, mut files) = self.list(names);
        fs::write(&list, text)?;
        files.insert(LIST.to_owned(), list);
        let tests = Tests {
            argv: ["--programs", LIST, "--timeout-scale", "1", "-g", SUITE]
                .map(str::to_owned)
                .into(),
            files: files.into_iter().collect(),
            timeout: (DEADLINE + GRACE) * u32::try_from(names.len())?,
            patience: DEADLINE + GRACE,
        };
        Ok(ends(&stand.boot(profile, number, tests)?, names))
    }

    /// The runner's list of these tests, and the files that they need, by their place on the host.
    fn list(&self, names: &[String]) -> (String, BTreeMap<String, PathBuf>) {
        let mut files = BTreeMap::new();
        let programs: Vec<Value> =
            names.iter().map(|name| self.program(name, &mut files)).collect();
        // What is JSON is YAML.
        (json!({"suite": SUITE, "programs": programs}).to_string(), files)
    }

    /// An entry of the runner's list. However a test of theirs dies, it says something about KVM: it
    /// counts where it passes without the bug.
    fn program(&self, name: &str, files: &mut BTreeMap<String, PathBuf>) -> Value {
        let (path, args, exit) = match (name.strip_prefix(UNIT), &self.units) {
            (Some(unit), Some(units)) => {
                files.extend(units.files.clone());
                let (image, words) = &units.commands[unit];
                let place = format!("/peers/{unit}.flat");
                files.insert(place.clone(), image.clone());
                let args = [&words[1..], &["-kernel".to_owned(), place]].concat();
                let exit = json!({UNIT_PASSED: "pass", "other": "fail", "signal": "fail"});
                (words[0].clone(), args, exit)
            }
            _ => {
                let program = program_of(name);
                let place = format!("/peers/{}", program.replace('/', "_"));
                files.insert(place.clone(), self.selftests[program].clone());
                let args = name.split_whitespace().skip(1).map(str::to_owned).collect();
                let exit = json!({"0": "pass", "4": "skip", "other": "fail", "signal": "fail"});
                (place, args, exit)
            }
        };
        let timeout = format!("{}s", DEADLINE.as_secs());
        json!({
            "name": name, "path": path, "args": args, "exit": exit, "timeout": timeout,
            "memory": MEMORY,
        })
    }
}

/// How these tests ended in a boot; one that took the host with it failed, and those behind it have not
/// run.
fn ends(boot: &Boot, names: &[String]) -> Vec<End> {
    let mut ends: Vec<End> =
        names.iter().filter_map(|name| boot.results.get(name)).map(End::from).collect();
    if let (Some(test), Some(why)) = (&boot.victim, &boot.death) {
        ends.push(End { test: test.clone(), verdict: Outcome::HostBug, why: why.clone() });
    }
    ends
}

/// The program of a selftest that is named with its arguments.
fn program_of(name: &str) -> &str {
    name.split_whitespace().next().unwrap_or_default()
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

    fn peers() -> Peers {
        let selftests = [("x86_64/a_test".to_owned(), PathBuf::from("/build/a"))].into();
        let words = ["/peers/qemu", "-smp", "2"].map(str::to_owned).to_vec();
        let units = Units {
            commands: [("apic".to_owned(), (PathBuf::from("/kut/apic.flat"), words))].into(),
            files: [("/peers/qemu".to_owned(), PathBuf::from("/usr/bin/qemu"))].into(),
        };
        Peers { selftests, units: Some(units) }
    }

    #[test]
    fn peers_are_programs_of_the_runner() {
        let names = ["x86_64/a_test -v 3", "unit:apic"].map(str::to_owned);
        let (text, files) = peers().list(&names);
        let list: Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(list["suite"], SUITE);
        let [test, unit] = [&list["programs"][0], &list["programs"][1]];
        assert_eq!(
            (&test["name"], &test["path"]),
            (&json!(names[0]), &json!("/peers/x86_64_a_test"))
        );
        assert_eq!((&test["args"], &test["timeout"]), (&json!(["-v", "3"]), &json!("120s")));
        assert_eq!(
            test["exit"],
            json!({"0": "pass", "4": "skip", "other": "fail", "signal": "fail"})
        );
        assert_eq!(unit["args"], json!(["-smp", "2", "-kernel", "/peers/apic.flat"]));
        assert_eq!(unit["exit"], json!({"1": "pass", "other": "fail", "signal": "fail"}));
        let places: Vec<&str> = files.keys().map(String::as_str).collect();
        assert_eq!(places, ["/peers/apic.flat", "/peers/qemu", "/peers/x86_64_a_test"]);
    }

    #[test]
    fn ends_are_read_from_the_stream() {
        let mut boot = Boot::default();
        for line in [
            r#"{"type":"start","test":"a"}"#,
            r#"{"type":"result","test":"a","outcome":"pass"}"#,
            r#"{"type":"result","test":"b","outcome":"fail","reason":"status 254: a.c:7"}"#,
            r#"{"type":"start","test":"c"}"#,
        ] {
            boot.take(line);
        }
        let names = ["a", "b", "c", "d"].map(str::to_owned);
        let told = |boot: &Boot| {
            ends(boot, &names)
                .iter()
                .map(|e| format!("{} {} {}", e.test, e.verdict, e.why))
                .collect()
        };
        let seen: Vec<String> = told(&boot);
        assert_eq!(seen, ["a pass ", "b fail status 254: a.c:7"]);
        boot.death = Some("the kernel died".to_owned());
        let seen: Vec<String> = told(&boot);
        assert_eq!(seen[2..], ["c host_bug the kernel died"]);
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
