//! What getdents(2) leaves in memory: the entries of a folder.

use pyo3::exceptions::PyValueError;
use pyo3::ffi;
use pyo3::prelude::*;

/// Where an entry's fields are: `struct linux_dirent64`.
const LENGTH_AT: usize = 16;
const TYPE_AT: usize = 18;
const NAME_AT: usize = 19;

/// Read what `getdents` has left: pairs of a name and a type (`DT_REG`, `DT_DIR`, …; 0 where the file
/// system does not tell). `.` and `..` are left out.
#[pyfunction]
pub(crate) fn folder_entries<'py>(
    py: Python<'py>,
    memory: &[u8],
) -> PyResult<Vec<(Bound<'py, PyAny>, u8)>> {
    let mut entries = Vec::new();
    let mut rest = memory;
    while !rest.is_empty() {
        let cut = || PyValueError::new_err("the memory ends in the middle of an entry");
        let length = rest.get(LENGTH_AT..TYPE_AT).ok_or_else(cut)?;
        let length = usize::from(u16::from_ne_bytes([length[0], length[1]]));
        let entry = rest.get(..length).filter(|it| it.len() > NAME_AT).ok_or_else(cut)?;
        rest = &rest[length..];
        let name = entry[NAME_AT..].split(|it| *it == 0).next().unwrap_or_default();
        if name == b"." || name == b".." {
            continue;
        }
        // SAFETY: the name is memory of that length; the result is a new reference, or an error.
        let name = unsafe {
            let (start, len) = (name.as_ptr().cast(), name.len() as ffi::Py_ssize_t);
            Bound::from_owned_ptr_or_err(py, ffi::PyUnicode_DecodeFSDefaultAndSize(start, len))?
        };
        entries.push((name, entry[TYPE_AT]));
    }
    Ok(entries)
}
