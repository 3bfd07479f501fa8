//! One self-contained page: what matters first, then hosts × tests with what is behind each cell, and
//! what was measured.

mod data;

use crate::journal::Run;

const PAGE: &str = include_str!("page.html");
const STYLE: &str = include_str!("style.css");
/// One after the other in one scope.
const SCRIPTS: [&str; 6] = [
    include_str!("state.js"),
    include_str!("panel.js"),
    include_str!("overview.js"),
    include_str!("matrix.js"),
    include_str!("perf.js"),
    include_str!("page.js"),
];

/// Makes the page.
pub fn render(runs: &[Run]) -> String {
    let json = data::json(runs);
    let script = format!("\"use strict\";\n(() => {{\n{}}})();\n", SCRIPTS.concat());
    let page = PAGE.replacen("/*STYLE*/", STYLE, 1).replacen("/*SCRIPT*/", &script, 1);
    page.replacen("/*DATA*/", &json, 1)
}
