//! The commands in README and docs are ones that can be given: options, groups and tests are there.

use std::fs;
use std::path::Path;
use std::process::Command;

const RUNNER: &str = env!("CARGO_BIN_EXE_kvm-conformance");
const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
const SCRIPT: &str = "./run_tests.sh";
/// What the reader is to make first.
const OF_THE_READER: &str = "my_feature";

/// A command as it is written.
struct Written {
    place: String,
    words: Vec<String>,
}

/// The words of a line as a shell reads them; the command ends at a comment, a quote of Markdown, or
/// another command.
fn words(line: &str) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    let (mut quote, mut is_new) = (false, true);
    for c in line.chars() {
        match c {
            '\'' => quote = !quote,
            '`' | '#' | ';' | '|' | '>' | '<' | '&' if !quote => break,
            ' ' if !quote => is_new = true,
            _ => {
                if std::mem::take(&mut is_new) {
                    words.push(String::new());
                }
                words.last_mut().expect("one was pushed").push(c);
            }
        }
    }
    words
}

fn commands() -> Vec<Written> {
    let root = Path::new(ROOT);
    let mut files = vec![root.join("README.md")];
    let mut folders = vec![root.join("docs")];
    while let Some(folder) = folders.pop() {
        for path in fs::read_dir(folder).expect("docs").flatten().map(|entry| entry.path()) {
            match path.is_dir() {
                true => folders.push(path),
                false if path.extension().is_some_and(|e| e == "md") => files.push(path),
                false => {}
            }
        }
    }
    let mut found = Vec::new();
    for file in files {
        let text = fs::read_to_string(&file).expect("a document");
        for (number, line) in text.lines().enumerate() {
            for (at, _) in line.match_indices(SCRIPT) {
                let place = format!("{}:{}", file.display(), number + 1);
                found.push(Written { place, words: words(&line[at + SCRIPT.len()..]) });
            }
        }
    }
    found
}

/// Takes `--option value` and `--option=value` out; gives the value.
fn take(words: &mut Vec<String>, option: &str) -> Option<String> {
    let at = words.iter().position(|word| {
        word == option || word.strip_prefix(option).is_some_and(|rest| rest.starts_with('='))
    })?;
    let word = words.remove(at);
    match word.split_once('=') {
        Some((_, value)) => Some(value.to_owned()),
        None if at < words.len() => Some(words.remove(at)),
        None => Some(String::new()),
    }
}

/// Whether something stands there for what the reader has.
fn is_pattern(words: &[String]) -> bool {
    let stands_for = |word: &String| {
        word.contains('…') || word == OF_THE_READER || {
            let value = word.rsplit('=').next().unwrap_or(word);
            value.len() > 1 && value.chars().all(|c| c.is_ascii_uppercase() || c == '/')
        }
    };
    words.iter().any(stands_for)
}

/// All that is written in tests.
fn sources(folder: &Path) -> String {
    let entries = fs::read_dir(folder).expect("suites/src").flatten().map(|entry| entry.path());
    entries
        .map(|path| if path.is_dir() { sources(&path) } else { fs::read_to_string(path).unwrap() })
        .collect()
}

#[test]
fn commands_in_documents_can_be_given() {
    let all = sources(&Path::new(ROOT).join("suites/src"));
    let (mut asked, mut wrong) = (0, Vec::new());
    for Written { place, mut words } in commands() {
        let is_of_runner = !words.first().is_some_and(|first| {
            ["lab", "report", "compare", "--self-test", "--no-setup"].contains(&first.as_str())
        });
        if !is_of_runner || is_pattern(&words) {
            continue;
        }
        let told = words.join(" ");
        let (host, arch) = (take(&mut words, "--host"), take(&mut words, "--arch"));
        if let Some(kernel) = take(&mut words, "--kernel")
            && !["debian:", "path:", "tree:", "build:"].iter().any(|kind| kernel.starts_with(kind))
        {
            wrong.push(format!("{place}: {told}: `{kernel}` names no kernel"));
        }
        if let Some(host) = &host
            && host != "native"
            && !Path::new(ROOT).join(format!("ci/hosts/{host}.yaml")).exists()
        {
            wrong.push(format!("{place}: {told}: there is no host {host}"));
        }
        let is_own = |name: &str| name.starts_with("amd64") || name.starts_with("intel");
        let here = std::env::consts::ARCH == "x86_64"
            && arch.is_none_or(|arch| arch == "x86_64")
            && host.is_none_or(|host| host == "native" || is_own(&host));
        asked += 1;
        words.retain(|word| word != "-l");
        if here {
            let output = Command::new(RUNNER).arg("-l").args(&words).output().expect("it starts");
            if !output.status.success() {
                let why = String::from_utf8_lossy(&output.stderr).into_owned();
                wrong.push(format!("{place}: {told}: {why}"));
            }
            continue;
        }
        // Tests of another architecture are not in this program: their names are in their files.
        let names = words.iter().filter(|word| !word.starts_with('-'));
        for part in names.flat_map(|word| word.split("::")) {
            let part = part.trim_matches(['*', '/']);
            if part.len() > 3 && !part.contains(['*', '[']) && !all.contains(part) {
                wrong.push(format!("{place}: {told}: nothing is named {part}"));
            }
        }
    }
    assert!(asked > 30, "only {asked} commands were found");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
