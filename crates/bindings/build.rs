//! Compile the C part against the headers of the interpreter that the extension is for.

use std::process::Command;

fn main() {
    println!("cargo:rerun-if-changed=src/interpreter.c");
    let config = pyo3_build_config::get();
    let python = config.executable().unwrap_or("python3");
    let code = "import sysconfig; print(sysconfig.get_path('include'))";
    let include = Command::new(python).args(["-c", code]).output().unwrap_or_else(|error| {
        panic!("{python} does not run, so its headers are not found: {error}")
    });
    let include = String::from_utf8(include.stdout).expect("a path that is text");
    cc::Build::new()
        .file("src/interpreter.c")
        .include(include.trim())
        .flag("-fexceptions")
        .warnings(true)
        .compile("threadlets_interpreter");
}
