//! Data that the runner carries with it: it may run where the repository is not.
//!
//! Macros rather than a build script, so that an edited file of data compiles the program that embeds it
//! anew, and nothing below.

use std::path::{Path, PathBuf};
use std::{env, fs};

use defs::arch::{Arch, IDS};
use proc_macro::TokenStream;
use proc_macro2::Span;
use quote::quote;
use serde_json::Value;
use syn::{Error, LitStr, parse_macro_input};

/// `policy!("../unittests.yaml")`: name and text of the file and of those that it includes, whose paths
/// start at its folder; and what they say of the target's architecture as JSON, which is read many times
/// as fast. The path starts at the package's folder.
#[proc_macro]
pub fn policy(path: TokenStream) -> TokenStream {
    let path = parse_macro_input!(path as LitStr);
    let files = match policy_files(&absolute(&path)) {
        Ok(files) => files,
        Err(message) => return refuse(&path, &message),
    };
    let json = as_json(&files).unwrap_or_default();
    let names = files.iter().map(|file| &file.name);
    let paths = files.iter().map(|file| file.path.display().to_string());
    quote!((&[#((#names, include_str!(#paths))),*], #json)).into()
}

/// `files!("../ci/mutants", "yaml")`: name and text of every file with that extension in the folder's
/// own folders, by name.
#[proc_macro]
pub fn files(arguments: TokenStream) -> TokenStream {
    let parse = syn::punctuated::Punctuated::<LitStr, syn::Token![,]>::parse_terminated;
    let arguments = parse_macro_input!(arguments with parse);
    let [folder, extension] = &arguments.iter().collect::<Vec<_>>()[..] else {
        let error = Error::new(Span::call_site(), "a folder and an extension are wanted");
        return error.to_compile_error().into();
    };
    let root = absolute(folder);
    let mut files = match files_below(&root, &extension.value()) {
        Ok(files) => files,
        Err(error) => return refuse(folder, &format!("{}: {error}", root.display())),
    };
    files.sort();
    let names =
        files.iter().map(|file| file.strip_prefix(&root).unwrap_or(file).display().to_string());
    let paths = files.iter().map(|file| file.display().to_string());
    quote!(&[#((#names, include_str!(#paths))),*]).into()
}

/// `names!("../ci/hosts", "yaml")`: the names, without it, of the files with that extension in the
/// folder, sorted.
#[proc_macro]
pub fn names(arguments: TokenStream) -> TokenStream {
    let parse = syn::punctuated::Punctuated::<LitStr, syn::Token![,]>::parse_terminated;
    let arguments = parse_macro_input!(arguments with parse);
    let [folder, extension] = &arguments.iter().collect::<Vec<_>>()[..] else {
        let error = Error::new(Span::call_site(), "a folder and an extension are wanted");
        return error.to_compile_error().into();
    };
    let root = absolute(folder);
    let entries = match fs::read_dir(&root) {
        Ok(entries) => entries,
        Err(error) => return refuse(folder, &format!("{}: {error}", root.display())),
    };
    let files = entries.flatten().map(|entry| entry.path());
    let files = files.filter(|file| file.extension().is_some_and(|e| *e == *extension.value()));
    let mut names: Vec<String> =
        files.filter_map(|file| Some(file.file_stem()?.to_string_lossy().into_owned())).collect();
    names.sort();
    quote!(&[#(#names),*]).into()
}

fn absolute(path: &LitStr) -> PathBuf {
    let package = env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default();
    Path::new(&package).join(path.value())
}

fn refuse(at: &LitStr, message: &str) -> TokenStream {
    Error::new(at.span(), message).to_compile_error().into()
}

fn files_below(root: &Path, extension: &str) -> std::io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for folder in fs::read_dir(root)? {
        let folder = folder?.path();
        if !folder.is_dir() || folder.ends_with("src") {
            continue;
        }
        for file in fs::read_dir(folder)? {
            let file = file?.path();
            if file.extension().is_some_and(|found| found == extension) {
                files.push(file);
            }
        }
    }
    Ok(files)
}

/// A file of the policy.
struct PolicyFile {
    /// Its path, from the first one's folder.
    name: String,
    path: PathBuf,
    text: String,
}

/// The file at `path` and those that it includes. What is wrong in them the runner reports.
fn policy_files(path: &Path) -> Result<Vec<PolicyFile>, String> {
    let folder = path.parent().unwrap_or(Path::new(""));
    let read = |name: &str| {
        let path = folder.join(name);
        let text = fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
        Ok::<_, String>(PolicyFile { name: name.to_owned(), path, text })
    };
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let mut files = vec![read(&name)?];
    let content = serde_yaml::from_str::<Value>(&files[0].text).unwrap_or_default();
    for included in content["include"].as_array().into_iter().flatten() {
        files.push(read(included.as_str().unwrap_or_default())?);
    }
    Ok(files)
}

/// What each file says of the target's architecture, as JSON; nothing where one is wrong, which the runner
/// reports when it reads the YAML.
fn as_json(files: &[PolicyFile]) -> Option<String> {
    let mut all: Vec<Value> = Vec::new();
    for file in files {
        let mut content = serde_yaml::from_str(&file.text).ok()?;
        keep_own(&mut content);
        all.push(content);
    }
    serde_json::to_string(&all).ok()
}

/// Drops what is said of other architectures; what stays in a list stays at its place there.
fn keep_own(policy: &mut Value) {
    // Cargo compiles for one target at a time, and names it to build scripts alone; the payload's build
    // script passes it on.
    let arch = match env::var("KVM_CONFORMANCE_ARCH") {
        Ok(id) => Arch::of_id(&id),
        Err(_) => Arch::native(),
    };
    let is_foreign = |test: &str, of: Option<&str>| {
        let first = test.split("::").next().filter(|first| IDS.contains(first));
        of.or(first).is_some_and(|of| Arch::of_id(of) != arch)
    };
    if let Some(known) = policy.get_mut("known_failures").and_then(Value::as_array_mut) {
        for known in known {
            if is_foreign(known["test"].as_str().unwrap_or(""), known["when"]["arch"].as_str()) {
                *known = Value::Null;
            }
        }
    }
    if let Some(tests) = policy.get_mut("tests").and_then(Value::as_object_mut) {
        tests.retain(|test, _| !is_foreign(test, None));
    }
}
