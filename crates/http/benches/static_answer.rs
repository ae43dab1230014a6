//! Cost of answering a request for a static file.
//!
//! `cargo bench -p threadlets-http --bench static_answer`; medians of many laps, in nanoseconds.

use std::fs;
use std::hint::black_box;
use std::path::Path;
use std::time::Instant;

use http::Request;
use http::request::Parts;
use threadlets_http::static_files::{FileBody, StaticFiles, StaticOptions};

const LAP_NS: u128 = 2_000_000;
const N_LAPS: usize = 101;
const BROWSER: [(&str, &str); 4] = [
    ("host", "localhost"),
    ("accept", "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"),
    ("accept-encoding", "gzip, deflate, br, zstd"),
    ("user-agent", "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"),
];

fn median_ns(mut once: impl FnMut()) -> f64 {
    let started = Instant::now();
    (0..20).for_each(|_| once());
    let n_times = (20 * LAP_NS / started.elapsed().as_nanos()).max(1) as u32;
    let mut laps: Vec<f64> = (0..N_LAPS)
        .map(|_| {
            let started = Instant::now();
            for _ in 0..n_times {
                once();
            }
            started.elapsed().as_nanos() as f64 / f64::from(n_times)
        })
        .collect();
    laps.sort_by(f64::total_cmp);
    laps[N_LAPS / 2]
}

fn request(target: &str, lines: &[(&str, &str)]) -> Parts {
    let mut request = Request::get(target);
    for &(name, value) in lines {
        request = request.header(name, value);
    }
    request.body(()).unwrap().into_parts().0
}

fn drain(mut body: FileBody) {
    while !body.is_empty() {
        black_box(body.try_read(1 << 16).unwrap().expect("the file is in memory"));
    }
}

fn measure(what: &str, files: &StaticFiles, request: &Parts) {
    let once = || {
        let response = files.try_answer(black_box(request)).expect("the file is in memory");
        drain(response.into_body());
    };
    drain(files.answer(request).into_body());
    println!("{what:<56} {:>8.0} ns", median_ns(once));
}

fn main() {
    let folder = std::env::temp_dir().join(format!("static_answer-{}", std::process::id()));
    fs::create_dir(&folder).unwrap();
    run(&folder);
    fs::remove_dir_all(&folder).unwrap();
}

fn run(folder: &Path) {
    for (name, n_bytes) in [("index.html", 1 << 10), ("a.js", 1 << 10), ("large.bin", 4 << 20)] {
        fs::write(folder.join(name), vec![b'x'; n_bytes]).unwrap();
    }
    fs::write(folder.join("b.js"), "plain").unwrap();
    fs::write(folder.join("b.js.br"), "brotli").unwrap();
    std::thread::sleep(std::time::Duration::from_millis(100));
    let files = StaticFiles::open(folder, StaticOptions::default()).unwrap();
    let bare = [("host", "localhost")];
    measure("1 KiB, request of a load generator", &files, &request("/a.js", &bare));
    measure("1 KiB, request of a browser, no siblings", &files, &request("/a.js", &BROWSER));
    measure("compressed sibling, request of a browser", &files, &request("/b.js", &BROWSER));
    measure("1 KiB, the index of the folder", &files, &request("/", &bare));
    measure("1 KiB, a part", &files, &request("/a.js", &[("range", "bytes=0-99")]));
    let answer = files.answer(&request("/a.js", &bare));
    let etag = answer.headers()["etag"].to_str().unwrap();
    let known = request("/a.js", &[("host", "localhost"), ("if-none-match", etag)]);
    measure("1 KiB, not modified", &files, &known);
    measure("nothing there", &files, &request("/missing", &bare));
    measure("4 MiB, 64 KiB of it", &files, &request("/large.bin", &[("range", "bytes=0-65535")]));
    measure("4 MiB in pieces of 64 KiB", &files, &request("/large.bin", &bare));

    // In turn, so that each is asked for after its moment of being taken for unchanged.
    let names: Vec<String> = (0..20_000).map(|number| format!("{number}.js")).collect();
    for name in &names {
        fs::write(folder.join(name), vec![b'x'; 1 << 10]).unwrap();
    }
    std::thread::sleep(std::time::Duration::from_millis(100));
    let many: Vec<Parts> = names.iter().map(|name| request(&format!("/{name}"), &bare)).collect();
    many.iter().for_each(|request| drain(files.answer(request).into_body()));
    let mut turn = many.iter().cycle();
    let in_turn_ns = median_ns(|| {
        let request = turn.next().expect("it goes round");
        let response = files.try_answer(black_box(request)).expect("the file is in memory");
        drain(response.into_body());
    });
    println!("{:<56} {in_turn_ns:>8.0} ns", "1 KiB, 20,000 files in turn, each compared by stat");

    let uncached = StaticOptions { cache_bytes: 0, ..StaticOptions::default() };
    let files = StaticFiles::open(folder, uncached).unwrap();
    measure("1 KiB without a cache", &files, &request("/a.js", &bare));
}
