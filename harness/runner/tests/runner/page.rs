//! The HTML page as a browser shows it: driven by its own keys and filters, where Chromium is installed.

use std::fs;
use std::process::Command;

use serde_json::{Value, json};

use crate::door::{Door, Named, text};

pub const TESTS: &[Named] = &[
    ("page::what_matters_comes_first", overview),
    ("page::keys_and_filters_reach_every_result", driven),
    ("page::a_big_night_is_a_small_page", big),
];

/// Hosts and tests of a big night.
const BIG: (usize, usize) = (20, 3000);
/// What a page of it may weigh.
const MOST_BYTES: usize = 5 << 20;

/// A stream of a run on a host of that kernel: the outcome of each test.
fn stream(kernel: &str, results: &[(String, &str)]) -> String {
    let host = json!({"type": "run", "arch": "x86_64", "kernel": kernel, "backend": "kvm_fake",
        "profile": "native", "started": 1, "tests": results.len()});
    let mut lines = format!("{host}\n");
    for (test, outcome) in results {
        let reason = (*outcome != "pass").then(|| format!("why {test} did not pass"));
        let checks: Vec<String> = (0..8).map(|n| format!("rule {n} of {test} holds")).collect();
        let result = json!({"type": "result", "test": test, "outcome": outcome, "reason": reason,
            "checks": 8, "passed_checks": checks, "groups": ["x86_64", "some"], "duration_us": 12_345,
            "location": "suites/src/some.rs:7"});
        lines.push_str(&format!("{result}\n"));
    }
    lines + "{\"type\":\"summary\"}\n"
}

/// The page of some streams.
fn page(door: &Door, streams: &[String]) -> String {
    let names: Vec<String> = (0..streams.len()).map(|n| format!("s{n}")).collect();
    for (name, stream) in names.iter().zip(streams) {
        door.file(name, stream);
    }
    let mut arguments = vec!["report", "--html", "page.html"];
    arguments.extend(names.iter().map(String::as_str));
    let output = door.run(&arguments);
    assert!(output.status.success(), "{}", text(&output.stderr));
    fs::read_to_string(door.path("page.html")).unwrap()
}

/// Opens the page, runs a script in it, and gives the value that this leaves; `None` where there is no
/// browser.
fn drive(door: &Door, page: &str, options: &[&str], script: &str) -> Option<Value> {
    let browser = ["chromium", "google-chrome"].into_iter().find(|browser| {
        Command::new(browser).arg("--version").output().is_ok_and(|o| o.status.success())
    });
    let Some(browser) = browser else {
        eprintln!("skipped: no Chromium shows the page");
        return None;
    };
    let driver = format!(
        "<pre id=driven></pre><script>setTimeout(() => {{ let told; try {{ told = (() => {{ {script} }})(); }} \
         catch (error) {{ told = String(error); }} \
         document.getElementById('driven').textContent = JSON.stringify(told); }}, 0);</script></body>"
    );
    let driven = door.file("driven.html", &page.replacen("</body>", &driver, 1));
    let profile = format!("--user-data-dir={}", door.path("profile").display());
    let output = Command::new(browser)
        .args([
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--virtual-time-budget=5000",
            &profile,
        ])
        .args(options)
        .args(["--dump-dom", &format!("file://{driven}")])
        .output()
        .unwrap();
    let dom = text(&output.stdout);
    let (_, rest) = dom.split_once("<pre id=\"driven\">").expect("the page was shown");
    let told = rest.split("</pre>").next().unwrap();
    let told = told.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&");
    Some(serde_json::from_str(&told).unwrap_or_else(|e| panic!("{e}: {told}")))
}

fn night() -> Vec<String> {
    let tests = |fails: &str| {
        let names = (0..30).map(|n| format!("x86_64::file{}::test{n}", n / 10));
        names
            .map(|name| (name.clone(), if name.ends_with(fails) { "fail" } else { "pass" }))
            .collect::<Vec<_>>()
    };
    vec![stream("6.1.0", &tests("test7")), stream("6.12.0", &tests("nothing"))]
}

fn overview() {
    let door = Door::new();
    let page = page(&door, &night());
    let script = "const shown = [...document.querySelectorAll('section')].filter((s) => !s.hidden).map((s) => s.id); \
        const first = document.querySelector('.items li'); \
        return [shown, document.querySelectorAll('.tile').length, first.textContent, \
            document.documentElement.scrollWidth <= innerWidth, getComputedStyle(document.body).backgroundColor];";
    let dark = "--blink-settings=preferredColorScheme=0";
    for (size, options) in [("1400,1000", vec![]), ("400,800", vec![]), ("1400,1000", vec![dark])] {
        let size = format!("--window-size={size}");
        let options = [vec![size.as_str()], options].concat();
        let Some(told) = drive(&door, &page, &options, script) else { return };
        assert_eq!((&told[0], &told[1]), (&json!(["overview"]), &json!(2)), "{told}");
        let item = told[2].as_str().unwrap();
        for part in [
            "x86_64::file0::test7",
            "why x86_64::file0::test7",
            "./run_tests.sh -v 'x86_64::file0::test7'",
        ] {
            assert!(item.contains(part), "{item}");
        }
        assert_eq!(told[3], true, "nothing is wider than the window of {options:?}");
        let is_white = told[4] == "rgb(255, 255, 255)";
        assert_eq!(is_white, !options.contains(&dark), "{told}");
    }
}

fn driven() {
    let door = Door::new();
    let page = page(&door, &night());
    let script = "const key = (key) => document.activeElement.dispatchEvent(new KeyboardEvent('keydown', {key, bubbles: true})); \
        const rows = () => [...document.querySelectorAll('.sheet .row')].map((r) => r.firstChild.textContent.trim()); \
        const told = []; \
        key('2'); told.push(rows()); \
        key('Enter'); for (let n = 0; n < 8; n += 1) key('ArrowDown'); \
        document.getElementById('grid').focus(); key('Enter'); \
        told.push(document.getElementById('panel-title').textContent, document.getElementById('panel-body').textContent, location.hash); \
        key('Escape'); told.push(document.getElementById('panel').hidden); \
        document.getElementById('differ').click(); told.push(rows(), location.hash); \
        return told;";
    for size in ["--window-size=1400,1000", "--window-size=400,800"] {
        let Some(told) = drive(&door, &page, &[size], script) else { return };
        let folded = json!([
            "▸ x86_64::file0 10 tests",
            "▸ x86_64::file1 10 tests",
            "▸ x86_64::file2 10 tests"
        ]);
        assert_eq!(told[0], folded, "{told}");
        assert_eq!(told[1], "x86_64::file0::test7", "{told}");
        let body = told[2].as_str().unwrap();
        assert!(
            body.contains("outcomefail") && body.contains("rule 3 of x86_64::file0::test7 holds"),
            "{body}"
        );
        let address = told[3].as_str().unwrap();
        assert!(
            address.contains("view=matrix") && address.contains("cell=0%2Fx86_64"),
            "{address}"
        );
        assert_eq!(told[4], true);
        assert_eq!(told[5], json!(["▾ x86_64::file0 1 test", "test7"]), "{told}");
        assert!(told[6].as_str().unwrap().contains("differ=1"), "{told}");
    }
}

fn big() {
    let door = Door::new();
    let (hosts, tests) = BIG;
    let outcome = |host: usize, test: usize| match (host * 7 + test) % 50 {
        0 => "known_fail",
        1..=4 => "skip",
        6 if test.is_multiple_of(9) => "fail",
        _ => "pass",
    };
    let name =
        |test: usize| format!("x86_64::file{}::a_rule_of_the_architecture_holds_{test}", test / 15);
    let of_host = |host: usize| (0..tests).map(|t| (name(t), outcome(host, t))).collect::<Vec<_>>();
    let streams: Vec<String> =
        (0..hosts).map(|host| stream(&format!("6.{host}.0"), &of_host(host))).collect();
    let page = page(&door, &streams);
    assert!(page.len() <= MOST_BYTES, "{} bytes", page.len());
    let script = "const started = performance.now(); document.querySelector('[data-view=matrix]').click(); \
        const name = document.getElementById('name'); name.value = 'holds_29'; \
        name.dispatchEvent(new Event('input', {bubbles: true})); \
        return [performance.now() - started, document.querySelectorAll('.sheet .row').length, \
            performance.now()];";
    let Some(told) = drive(&door, &page, &["--window-size=1400,1000"], script) else { return };
    eprintln!(
        "{} bytes; changed in {} ms, first shown and changed in {} ms",
        page.len(),
        told[0],
        told[2]
    );
    let rows = told[1].as_u64().unwrap();
    assert!((10..100).contains(&rows), "only what is in sight is there: {told}");
}
