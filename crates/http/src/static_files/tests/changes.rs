//! Files that change, shrink or disappear, and what is kept of them in memory.

use std::fs::File;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, UNIX_EPOCH};

use super::super::cache::Cached;
use super::super::coarse_ns;
use super::super::negotiation::Coding;
use super::*;

const ON_DISK: fn(&mut StaticOptions) = |options| options.cached_file_max = 0;

fn numbers(n_bytes: usize) -> Vec<u8> {
    (0..n_bytes).map(|at| b'0' + (at / 7 % 10) as u8).collect()
}

fn body_of(files: &StaticFiles, target: &str) -> FileBody {
    let response = files.answer(&request("GET", target, &[]));
    assert_eq!(StatusCode::OK, response.status());
    response.into_body()
}

#[test]
fn a_change_shows_within_moments() {
    for cached_file_max in [1 << 20, 0] {
        let site = Site::new(&[("a.txt", "first")]);
        let files = site.open_with(|options| options.cached_file_max = cached_file_max);
        let first = serve(&files, "/a.txt");
        assert_eq!("first", first.body);
        for contents in ["second", "third"] {
            site.write("a.txt", contents);
            until(|| serve(&files, "/a.txt").body == contents);
        }
        site.replace("a.txt", "fourth");
        until(|| serve(&files, "/a.txt").body == "fourth");
        assert_ne!(first.header("etag"), serve(&files, "/a.txt").header("etag"));

        fs::remove_file(site.root().join("a.txt")).unwrap();
        until(|| serve(&files, "/a.txt").status == StatusCode::NOT_FOUND);
        site.write("a.txt", "fifth");
        assert_eq!("fifth", serve(&files, "/a.txt").body);
    }
}

#[test]
fn a_change_shows_that_leaves_size_and_date_as_they_were() {
    let site = Site::new(&[]);
    let files = site.open();
    for round in 0..20 {
        let contents = format!("round {round:03}");
        let path = site.root().join("a.txt");
        fs::write(&path, &contents).unwrap();
        let file = File::options().write(true).open(&path).unwrap();
        file.set_modified(UNIX_EPOCH + Duration::from_secs(784_111_777)).unwrap();
        until(|| serve(&files, "/a.txt").body == contents);
    }
}

#[test]
fn writes_within_one_tick_of_the_clock_show() {
    let site = Site::new(&[("a.txt", "0000")]);
    let files = site.open();
    for round in 1..200 {
        let contents = format!("{round:04}");
        site.write("a.txt", &contents);
        serve(&files, "/a.txt");
        site.write("a.txt", contents.replace('0', "x"));
        until(|| serve(&files, "/a.txt").body == contents.replace('0', "x"));
    }
}

#[test]
fn a_sibling_that_comes_and_goes_shows() {
    let site = Site::new(&[("a.js", "plain")]);
    let files = site.open();
    let body = || {
        let request = request("GET", "/a.js", &[("accept-encoding", "gzip")]);
        answer_of(files.answer(&request), false).body
    };
    assert_eq!("plain", body());
    site.write("a.js.gz", "gzip");
    until(|| body() == "gzip");
    fs::remove_file(site.root().join("a.js.gz")).unwrap();
    until(|| body() == "plain");
    site.write("a.js.gz", "gzip");
    until(|| body() == "gzip");
    // It is not served without the plain file.
    fs::remove_file(site.root().join("a.js")).unwrap();
    until(|| body() == "Not Found\n");
}

#[test]
fn a_file_that_shrinks_while_it_is_sent_is_an_error() {
    let site = Site::new(&[]);
    let contents = numbers(300_000);
    let files = site.open_with(ON_DISK);
    for n_bytes_left in [0, 5_000, 150_000, 299_999] {
        site.write("a.bin", &contents);
        let (mut tried, mut waited) = (body_of(&files, "/a.bin"), body_of(&files, "/a.bin"));
        assert_eq!(&contents[..1000], waited.read(1000).unwrap());
        let file = File::options().write(true).open(site.root().join("a.bin")).unwrap();
        file.set_len(n_bytes_left).unwrap();
        for body in [&mut tried, &mut waited] {
            let error = read_all(body).unwrap_err();
            assert_eq!(io::ErrorKind::UnexpectedEof, error.kind(), "{n_bytes_left}");
            assert!(!body.is_empty());
        }
    }
}

#[test]
fn a_file_that_is_replaced_or_deleted_or_grows_is_sent_as_it_was() {
    let site = Site::new(&[]);
    let contents = numbers(300_000);
    let files = site.open_with(ON_DISK);
    let changes: [fn(&Site); 3] = [
        |site| site.replace("a.bin", "new"),
        |site| fs::remove_file(site.root().join("a.bin")).unwrap(),
        |site| {
            let mut file = File::options().append(true).open(site.root().join("a.bin")).unwrap();
            io::Write::write_all(&mut file, b"more").unwrap();
        },
    ];
    for change in changes {
        site.replace("a.bin", &contents);
        until(|| files.answer(&request("GET", "/a.bin", &[])).body().len() == 300_000);
        let mut body = body_of(&files, "/a.bin");
        assert_eq!(&contents[..1000], body.read(1000).unwrap());
        change(&site);
        assert!(read_all(&mut body).unwrap() == contents[1000..]);
    }
}

#[test]
fn a_file_that_disappears_before_the_answer_is_found_again_or_missed() {
    let site = Site::new(&[("a.txt", "first")]);
    let files = site.open_with(ON_DISK);
    // The headers are in the cache, and the descriptor is closed with its last reader.
    assert_eq!("first", serve(&files, "/a.txt").body);
    site.replace("a.txt", "second one");
    // However soon: the headers and the bytes are of one file.
    let response = files.answer(&request("GET", "/a.txt", &[]));
    assert_eq!("second one", answer_of(response, false).body);
    fs::remove_file(site.root().join("a.txt")).unwrap();
    assert_eq!(StatusCode::NOT_FOUND, serve(&files, "/a.txt").status);
}

#[test]
fn cold_files_are_read_by_those_who_may_wait() {
    let site = Site::new(&[]);
    let contents = numbers(5 << 20);
    site.write("a.bin", &contents);
    let files = site.open_with(ON_DISK);
    let file = File::open(site.root().join("a.bin")).unwrap();
    for max in [1000, 65536, usize::MAX] {
        file.sync_all().unwrap();
        rustix::fs::fadvise(file.as_fd(), 0, None, rustix::fs::Advice::DontNeed).unwrap();
        let mut body = body_of(&files, "/a.bin");
        let mut all = Vec::new();
        while !body.is_empty() {
            let bytes = match body.try_read(max).unwrap() {
                Some(bytes) => bytes,
                None => body.read(max).unwrap(),
            };
            assert!((1..=max).contains(&bytes.len()));
            all.extend_from_slice(&bytes);
        }
        assert!(contents == all);
        assert_eq!(Some(0), body.try_read(max).unwrap().map(|bytes| bytes.len()));
        assert_eq!(0, body.read(max).unwrap().len());
    }
}

#[test]
fn readers_share_the_bytes_of_a_small_file() {
    let site = Site::new(&[]);
    site.write("a.bin", numbers(100_000));
    let files = site.open();
    let pointer = || body_of(&files, "/a.bin").read(usize::MAX).unwrap().as_ptr();
    // Soon after a write, a file is read again each time.
    until(|| {
        serve(&files, "/a.bin");
        matches!(
            files.cache.look(b"a.bin", Coding::Identity, coarse_ns()),
            Cached::Fresh(file) | Cached::Stale(file) if file.is_settled
        )
    });
    let bodies: Vec<_> =
        (0..100).map(|_| body_of(&files, "/a.bin").read(usize::MAX).unwrap()).collect();
    assert!(bodies.iter().all(|bytes| bytes.as_ptr() == pointer()));
}

#[test]
fn readers_share_the_descriptor_of_a_large_file_and_the_last_one_closes_it() {
    let site = Site::new(&[]);
    site.write("a.bin", numbers(100_000));
    let files = site.open_with(ON_DISK);
    let path = fs::canonicalize(site.root().join("a.bin")).unwrap();
    let n_open = || {
        let links = fs::read_dir("/proc/self/fd").unwrap().filter_map(Result::ok);
        links.filter(|link| fs::read_link(link.path()).is_ok_and(|to| to == path)).count()
    };
    for _ in 0..2 {
        let bodies: Vec<_> = (0..100).map(|_| body_of(&files, "/a.bin")).collect();
        assert_eq!(1, n_open());
        drop(bodies);
        assert_eq!(0, n_open());
    }
}

#[test]
fn the_cache_keeps_its_bound_and_what_was_asked_for_last() {
    let site = Site::new(&[]);
    let names: Vec<String> = (0..20).map(|number| format!("{number}.txt")).collect();
    for name in &names {
        site.write(name, numbers(10_000));
    }
    let files = site.open_with(|options| options.cache_bytes = 70_000);
    let is_cached = |name: &str| {
        let found = files.cache.look(name.as_bytes(), Coding::Identity, coarse_ns());
        matches!(found, Cached::Fresh(_) | Cached::Stale(_))
    };
    for name in &names {
        serve(&files, &format!("/{name}"));
        serve(&files, "/0.txt");
        assert!(files.cache.bytes() <= 70_000);
        assert!(is_cached(name) && is_cached("0.txt"));
    }
    assert!(!is_cached("1.txt") && !is_cached("10.txt") && is_cached("18.txt"));
    // A file that is larger than the cache, and one that is not there, drive nothing out.
    let before = files.cache.bytes();
    site.write("large.bin", numbers(100_000));
    serve(&files, "/large.bin");
    serve(&files, "/missing.txt");
    assert!(is_cached("0.txt") && is_cached("19.txt"));
    assert!(files.cache.bytes() < before + 10_000);
}

#[test]
fn without_a_cache_everything_is_answered_all_the_same() {
    let site = Site::new(&[("a.txt", "contents")]);
    let files = site.open_with(|options| options.cache_bytes = 0);
    for _ in 0..3 {
        assert_eq!("contents", serve(&files, "/a.txt").body);
        assert_eq!(0, files.cache.bytes());
    }
}

#[test]
fn threads_may_ask_while_files_change() {
    let site = Site::new(&[("a.txt", "0".repeat(1000).as_str())]);
    let files = site.open();
    let is_done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while !is_done.load(Ordering::Relaxed) {
                    let answer = serve(&files, "/a.txt");
                    assert_eq!(StatusCode::OK, answer.status);
                    let round = &answer.body[..answer.body.len() / 1000];
                    assert_eq!(round.repeat(1000), answer.body);
                }
            });
        }
        for round in 0..300 {
            site.replace("a.txt", round.to_string().repeat(1000));
        }
        is_done.store(true, Ordering::Relaxed);
    });
    until(|| serve(&files, "/a.txt").body.starts_with("299299"));
}
