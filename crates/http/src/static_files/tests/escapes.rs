//! Nothing outside the folder is served, and nothing that is no file, whatever an address or a link says.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixListener;

use proptest::prelude::*;

use super::*;

/// Looks paths up in both ways: by openat2, and as on kernels without it.
fn both_ways(site: &Site, change: impl Fn(&mut StaticOptions)) -> [(&'static str, StaticFiles); 2] {
    let mut stepwise = site.open_with(&change);
    stepwise.folder.look_up_stepwise();
    [("openat2", site.open_with(&change)), ("stepwise", stepwise)]
}

#[test]
fn addresses_do_not_lead_out_of_the_folder() {
    let site = Site::new(&[("a/b.txt", "inside"), (".env", "hidden"), ("a/.git/config", "hidden")]);
    for (way, files) in both_ways(&site, |_| ()) {
        for target in [
            "/../secret.txt",
            "/a/../../secret.txt",
            "/a/../a/b.txt",
            "/./a/b.txt",
            "/%2e%2e/secret.txt",
            "/%2E%2e/secret.txt",
            "/.%2e/secret.txt",
            "/%2e./secret.txt",
            "/..%2fsecret.txt",
            "/..%2Fsecret.txt",
            "/%2e%2e%2fsecret.txt",
            "/a/..%2f..%2fsecret.txt",
            "/%252e%252e/secret.txt",
            "/%252e%252e%252fsecret.txt",
            "/..%252fsecret.txt",
            "/%c0%ae%c0%ae/secret.txt",
            "/%c0%ae%c0%ae%c0%afsecret.txt",
            "/%e0%80%ae%e0%80%ae/secret.txt",
            "/..%c0%afsecret.txt",
            "/%uff0e%uff0e/secret.txt",
            "/..\\secret.txt",
            "/..%5csecret.txt",
            "/a%5c..%5c..%5csecret.txt",
            "//secret.txt",
            "/a//b.txt",
            "/%2fetc/passwd",
            "//etc/passwd",
            "/a%2fb.txt",
            "/a/b.txt/",
            "/a/b.txt/.",
            "/a/b.txt%00",
            "/a/b.txt%00.html",
            "/%00",
            "/a/b.txt%20",
            "/A/b.txt",
            "/.env",
            "/%2eenv",
            "/a/.git/config",
            "/a/.git",
            "/a/.git/",
            "/...",
            "/.../secret.txt",
            "/proc/self/root/etc/passwd",
        ] {
            let answer = get(&files, target);
            assert!(matches!(answer.status.as_u16(), 400 | 404), "{way}: {target}: {answer:?}");
        }
        assert_eq!("inside", get(&files, "/a/b.txt").body, "{way}");
    }
}

#[test]
fn links_do_not_lead_out_of_the_folder() {
    let site = Site::new(&[
        ("a/b.txt", "inside"),
        ("index/x", ""),
        ("c.js", "plain"),
        ("d.js", "plain"),
        ("d.js.zst", "zstd"),
    ]);
    let root = site.root();
    let link = |to: &Path, from: &str| symlink(to, root.join(from)).unwrap();
    link(&site.outside().join("secret.txt"), "absolute");
    link(Path::new("../secret.txt"), "relative");
    link(Path::new("../../secret.txt"), "a/relative");
    link(Path::new("../root/a/b.txt"), "out_and_in");
    link(site.outside(), "folder");
    link(Path::new(".."), "parent");
    link(Path::new("/"), "system");
    link(Path::new("/proc/self/cwd"), "magic");
    link(Path::new("relative"), "chain");
    link(Path::new("loop"), "loop");
    link(Path::new("missing"), "dangling");
    link(Path::new("../../secret.txt"), "index/index.html");
    link(Path::new("../secret.txt"), "c.js.br");
    link(Path::new("../secret.txt"), "d.js.br");
    link(&root.join("a/b.txt"), "absolute_inside");
    link(Path::new("a/b.txt"), "inside");
    link(Path::new("a"), "inside_folder");
    for (way, files) in both_ways(&site, |options| options.dot_files = true) {
        for target in [
            "/absolute",
            "/relative",
            "/a/relative",
            "/out_and_in",
            "/folder/secret.txt",
            "/folder",
            "/folder/",
            "/parent/secret.txt",
            "/parent",
            "/system/etc/passwd",
            "/magic/Cargo.toml",
            "/chain",
            "/loop",
            "/loop/x",
            "/dangling",
            "/index/",
            "/index/index.html",
            "/c.js.br",
            // Where it leads is not looked at.
            "/absolute_inside",
        ] {
            let answer = get(&files, target);
            assert_eq!(StatusCode::NOT_FOUND, answer.status, "{way}: {target}: {answer:?}");
        }
        let accepts = [("accept-encoding", "br, zstd;q=0.5")];
        assert_eq!("plain", ask(&files, "GET", "/c.js", &accepts).body, "{way}");
        assert_eq!("zstd", ask(&files, "GET", "/d.js", &accepts).body, "{way}");
        let inside = [get(&files, "/inside"), get(&files, "/inside_folder/b.txt")];
        for answer in inside {
            match way {
                "openat2" => assert_eq!("inside", answer.body),
                _ => assert_eq!(StatusCode::NOT_FOUND, answer.status),
            }
        }
    }
}

#[test]
fn a_file_that_becomes_a_link_to_the_outside_is_gone() {
    let site = Site::new(&[("a.txt", "inside")]);
    for (way, files) in both_ways(&site, |_| ()) {
        site.replace("a.txt", "inside");
        assert_eq!("inside", get(&files, "/a.txt").body, "{way}");
        fs::remove_file(site.root().join("a.txt")).unwrap();
        symlink("../secret.txt", site.root().join("a.txt")).unwrap();
        until(|| serve(&files, "/a.txt").status == StatusCode::NOT_FOUND);
    }
}

#[test]
fn what_is_no_file_is_not_opened_and_nothing_hangs() {
    let site = Site::new(&[("folder/x", ""), ("c.js", "plain")]);
    let path = |name: &str| site.root().join(name);
    let _listener = UnixListener::bind(path("socket")).unwrap();
    let mode = rustix::fs::Mode::from_raw_mode(0o644);
    let make = |name: &str, kind| {
        rustix::fs::mknodat(rustix::fs::CWD, path(name), kind, mode, rustix::fs::makedev(1, 5))
    };
    for name in ["pipe", "folder/index.html", "c.js.gz"] {
        make(name, rustix::fs::FileType::Fifo).unwrap();
    }
    let mut targets = vec!["/socket", "/pipe", "/folder/", "/folder/index.html", "/c.js.gz"];
    // Only root may make devices, and not in every container.
    if make("zero", rustix::fs::FileType::CharacterDevice).is_ok() {
        targets.push("/zero");
    }
    for (way, files) in both_ways(&site, |_| ()) {
        for target in &targets {
            assert_eq!(StatusCode::NOT_FOUND, get(&files, target).status, "{way}: {target}");
        }
        let answer = ask(&files, "GET", "/c.js", &[("accept-encoding", "gzip")]);
        assert_eq!("plain", answer.body, "{way}");
    }
}

#[test]
fn names_that_no_file_can_have_are_not_found() {
    let site = Site::new(&[("a.txt", "a")]);
    for (way, files) in both_ways(&site, |_| ()) {
        let name = "n".repeat(256);
        let deep = "d/".repeat(3000);
        for (target, expected) in [
            (format!("/{name}"), 404),
            (format!("/{name}/"), 404),
            (format!("/a.txt/{name}"), 404),
            (format!("/{}", "%61".repeat(4095)), 404),
            (format!("/{}", "%61".repeat(4096)), 414),
            (format!("/{deep}"), 414),
        ] {
            assert_eq!(expected, get(&files, &target).status.as_u16(), "{way}: {target}");
        }
    }
}

#[test]
fn a_file_that_may_not_be_read_is_forbidden() {
    let site = Site::new(&[("a.txt", "a")]);
    let path = site.root().join("a.txt");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o000)).unwrap();
    if fs::File::open(&path).is_ok() {
        // Root may read everything.
        return;
    }
    for (way, files) in both_ways(&site, |_| ()) {
        assert_eq!(StatusCode::FORBIDDEN, get(&files, "/a.txt").status, "{way}");
    }
}

#[test]
fn dot_files_are_served_if_asked_for_and_well_known_ones_always() {
    let site = Site::new(&[
        (".env", "env"),
        ("a/.b/c.txt", "c"),
        (".well-known/acme-challenge/x", "token"),
        (".well-known/.x", "x"),
        ("a/.well-known/x", "x"),
    ]);
    let (closed, open) = (site.open(), site.open_with(|options| options.dot_files = true));
    for (target, is_always) in [
        ("/.env", false),
        ("/a/.b/c.txt", false),
        ("/.well-known/.x", false),
        ("/a/.well-known/x", false),
        ("/.well-known/acme-challenge/x", true),
    ] {
        let expected = if is_always { StatusCode::OK } else { StatusCode::NOT_FOUND };
        assert_eq!(expected, get(&closed, target).status, "{target}");
        assert_eq!(StatusCode::OK, get(&open, target).status, "{target}");
    }
    assert_eq!(StatusCode::NOT_FOUND, get(&open, "/../secret.txt").status);
}

#[test]
fn no_sequence_of_odd_segments_leads_outside() {
    let site = Site::new(&[("a/b/c.txt", "inside"), ("a.txt", "inside")]);
    symlink("..", site.root().join("a/up")).unwrap();
    symlink("../..", site.root().join("a/out")).unwrap();
    let all = both_ways(&site, |options| {
        options.dot_files = true;
        options.listing = true;
    });
    let segment = prop::sample::select(vec![
        "a",
        "b",
        "up",
        "out",
        "root",
        "secret.txt",
        "c.txt",
        "",
        ".",
        "..",
        "%2e",
        "%2e%2e",
        ".%2e",
        "..%2f",
        "%2f",
        "%5c..",
        "..%00",
        "%252e%252e",
        "%c0%ae%c0%ae",
        "..%c0%af",
        "...",
        "..;",
    ]);
    proptest!(|(segments in prop::collection::vec(segment, 0..7), has_slash: bool)| {
        let slash = if has_slash { "/" } else { "" };
        let target = format!("/{}{slash}", segments.join("/"));
        for (way, files) in &all {
            let answer = get(files, &target);
            prop_assert!(!answer.body.contains("secret"), "{}: {}: {:?}", way, target, answer);
            if let Some(location) = answer.header("location") {
                prop_assert!(!location.starts_with("//"), "{}: {}: {}", way, target, location);
            }
        }
    });
}
