//! Compile the C part against the headers of the interpreter that the extension is for, and have the
//! linker replace the interpreter's functions with its guarded ones.

use std::env;
use std::path::PathBuf;
use std::process::Command;

fn main() {
    pyo3_build_config::use_pyo3_cfgs();
    println!("cargo:rerun-if-changed=src/py/interpreter.c");
    println!("cargo:rerun-if-changed=src/py/python_calls.h");
    println!("cargo:rustc-env=THREADLETS_BUILD={}", build());
    let Some(headers) = headers() else {
        // Without headers the crate can be checked, but not linked.
        println!("cargo:rustc-link-lib=threadlets_interpreter");
        return;
    };
    cc::Build::new()
        .file("src/py/interpreter.c")
        .includes(headers)
        .flag("-fexceptions")
        .warnings(true)
        // With these options a guarded call costs a stack frame and no more.
        .opt_level(2)
        .force_frame_pointer(false)
        .flag_if_supported("-fno-plt")
        .compile("threadlets_interpreter");
    for name in guarded() {
        println!("cargo:rustc-link-arg-cdylib=-Wl,--wrap={name}");
    }
}

/// The include paths of the interpreter: those in THREADLETS_HEADERS, for an interpreter that does not run
/// on this machine, or the one that the interpreter reports. `None`: there is no interpreter.
fn headers() -> Option<Vec<PathBuf>> {
    println!("cargo:rerun-if-env-changed=THREADLETS_HEADERS");
    if let Some(headers) = env::var_os("THREADLETS_HEADERS") {
        return Some(env::split_paths(&headers).collect());
    }
    let python = pyo3_build_config::get().executable()?;
    let code = "import sysconfig; print(sysconfig.get_path('include'))";
    let include = Command::new(python).args(["-c", code]).output().unwrap_or_else(|error| {
        panic!(
            "{python} does not run, so its headers are not found; set THREADLETS_HEADERS: {error}"
        )
    });
    let include = String::from_utf8(include.stdout).expect("the include path is UTF-8");
    Some(vec![include.trim().into()])
}

/// The profile, the target and the compiler, as `threadlets --version` shows them.
fn build() -> String {
    let [profile, target, rustc] =
        ["PROFILE", "TARGET", "RUSTC"].map(|name| env::var(name).expect("cargo sets these"));
    let version = Command::new(rustc).arg("--version").output().expect("rustc runs");
    let version = String::from_utf8(version.stdout).expect("rustc's version is UTF-8");
    format!("{profile} build for {target} by {}", version.trim())
}

/// The names of the functions that are replaced with guarded ones. The linker ignores those that this
/// interpreter does not have.
fn guarded() -> impl Iterator<Item = &'static str> {
    let list = include_str!("src/py/python_calls.h").lines();
    let calls = list.filter_map(|line| {
        let (what, rest) = line.split_once('(')?;
        let mut fields = rest.trim_end_matches(')').split(", ");
        match what.trim_end_matches(|it: char| it.is_ascii_digit()) {
            "CALL" => fields.nth(1),
            "DO" => fields.next(),
            _ => None,
        }
    });
    calls.chain(["PyVectorcall_Function"])
}
