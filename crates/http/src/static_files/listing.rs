//! The page that lists a folder.

use std::os::fd::OwnedFd;

use bytes::Bytes;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_encode};
use rustix::fs::{Dir, FileType};

use super::folder::{Folder, Miss};
use super::target::is_hidden;

/// A longer list ends with a line that says so.
const N_NAMES_MAX: usize = 10_000;
/// What a name keeps in a link.
const KEPT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// The page of the folder at `path`, which may wait for the disk.
pub(super) fn page(folder: &Folder, path: &[u8], dot_files: bool) -> Result<Bytes, Miss> {
    let opened = folder.open_folder(path)?;
    let (names, is_all) = names(folder, opened, path, dot_files)?;
    let title = format!("/{}", escape(&String::from_utf8_lossy(path)));
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n<title>{title}</title>\n\
         <h1>{title}</h1>\n<ul>\n"
    );
    if !path.is_empty() {
        page.push_str("<li><a href=\"../\">../</a>\n");
    }
    for (name, is_folder) in &names {
        let slash = if *is_folder { "/" } else { "" };
        // "./" keeps a name with a colon from being read as a scheme.
        page.push_str("<li><a href=\"./");
        page.extend(percent_encode(name, KEPT));
        page.push_str(&format!(
            "{slash}\">{}{slash}</a>\n",
            escape(&String::from_utf8_lossy(name))
        ));
    }
    page.push_str("</ul>\n");
    if !is_all {
        page.push_str("<p>There is more; the list ends here.\n");
    }
    Ok(Bytes::from(page))
}

type Names = Vec<(Vec<u8>, bool)>;

/// The names of what is served, sorted, folders first, each with whether it is one; and whether these are
/// all.
fn names(
    folder: &Folder,
    opened: OwnedFd,
    path: &[u8],
    dot_files: bool,
) -> Result<(Names, bool), Miss> {
    let mut names = Names::new();
    let mut is_all = true;
    for entry in Dir::new(opened).map_err(|_| Miss::Broken)? {
        let entry = entry.map_err(|_| Miss::Broken)?;
        let name = entry.file_name().to_bytes();
        let is_served = !matches!(name, b"." | b"..")
            && !name.contains(&b'\\')
            && (dot_files || !is_hidden(path.is_empty(), name));
        if !is_served {
            continue;
        }
        let is_folder = match entry.file_type() {
            FileType::RegularFile => false,
            FileType::Directory => true,
            // A link is listed as what it leads to, and not at all if that is not served.
            FileType::Symlink | FileType::Unknown => {
                let whole =
                    if path.is_empty() { name.to_vec() } else { [path, b"/", name].concat() };
                match folder.is_folder(&whole) {
                    Ok(is_folder) => is_folder,
                    Err(_) => continue,
                }
            }
            _ => continue,
        };
        if names.len() == N_NAMES_MAX {
            is_all = false;
            break;
        }
        names.push((name.to_vec(), is_folder));
    }
    names.sort_by(|(name, is_folder), (other, other_is_folder)| {
        other_is_folder.cmp(is_folder).then_with(|| name.cmp(other))
    });
    Ok((names, is_all))
}

/// As text or as the value of an attribute.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            _ => escaped.push(character),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_become_markup() {
        assert_eq!("&lt;a b=&quot;c&#39;&quot;&gt;&amp;", escape("<a b=\"c'\">&"));
    }
}
