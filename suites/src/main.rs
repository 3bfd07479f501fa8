//! The runner.
fn main() {
    harness::payload::Payload::init(suites::PAYLOAD).unwrap();
    let facts = harness::facts::HostFacts::probe().unwrap();
    eprintln!("{} {} {:?}", facts.backend, facts.kernel, facts.cpu_features);
    for test in harness::TESTS.iter() {
        let t = std::time::Instant::now();
        let r = (test.run)();
        let e = t.elapsed();
        println!("{} {:?} ", test.name(), e);
        match r {
            Ok(()) => println!("  ok"),
            Err(e) => println!("  {e}"),
        }
    }
}
