//! Files on the wire: whole in the request that starts a run, in chunks on their way to an agent.

use shoal_domain::files::{File, Files, MAX_FILES, MAX_TOTAL_BYTES, Slice, relative};

use crate::{BadField, v1};

/// Far below a message, so that a beat never waits behind one.
const CHUNK_BYTES: usize = 1024 * 1024;
/// Quotes of cells may make a slice larger than what it was cut from, but not without end.
const MAX_FETCHED_BYTES: u64 = 2 * MAX_TOTAL_BYTES;

/// Refuses paths that are none, that stand twice, and more than goes with a run.
pub fn files_from_wire(files: Vec<v1::ShippedFile>) -> Result<Files, BadField> {
    if files.len() > MAX_FILES {
        return Err(BadField::new("files", format!("{} files, at most {MAX_FILES}", files.len())));
    }
    let total = files.iter().map(|file| file.body.len() as u64).sum::<u64>();
    if total > MAX_TOTAL_BYTES {
        return Err(BadField::new("files", format!("{total} bytes, at most {MAX_TOTAL_BYTES}")));
    }
    let mut seen = std::collections::BTreeSet::new();
    for file in &files {
        check_path(&file.path)?;
        if !seen.insert(&file.path) {
            return Err(BadField::new("files.path", format!("`{}` stands there twice", file.path)));
        }
    }
    Ok(files.into_iter().map(|file| File::new(file.path, file.body)).collect())
}

/// Only the one spelling, so that equal files have equal paths.
fn check_path(path: &str) -> Result<(), BadField> {
    match relative(path) {
        Ok(canonical) if canonical == path => Ok(()),
        _ => Err(BadField::new("files.path", format!("`{path}` is no relative path"))),
    }
}

/// One file as it is sent to an agent.
pub fn chunks(file: &File) -> impl Iterator<Item = v1::FileChunk> + '_ {
    let range = |range: &std::ops::Range<u64>| v1::RowRange { first: range.start, end: range.end };
    let rows = file.slice().map(|slice| v1::FileRows {
        n_rows: slice.n_rows,
        ranges: slice.ranges.iter().map(range).collect(),
    });
    let head = v1::FileHead {
        path: file.path.clone(),
        sha256: file.sha256.to_vec(),
        n_bytes: file.n_bytes,
        rows,
    };
    let data = file.slice().map_or(file.bytes().unwrap_or_default(), |slice| &slice.csv);
    let head = v1::FileChunk { head: Some(head), data: Vec::new() };
    let data = data.chunks(CHUNK_BYTES).map(|part| v1::FileChunk { head: None, data: part.into() });
    std::iter::once(head).chain(data)
}

/// Puts files together again.
#[derive(Debug, Default)]
pub struct Assembler {
    open: Option<(v1::FileHead, Vec<u8>)>,
    done: Vec<File>,
    n_bytes: u64,
}

impl Assembler {
    pub fn add(&mut self, chunk: v1::FileChunk) -> Result<(), BadField> {
        if let Some(head) = chunk.head {
            self.close()?;
            check_path(&head.path)?;
            if self.done.len() == MAX_FILES {
                return Err(BadField::new("head", format!("more than {MAX_FILES} files")));
            }
            self.open = Some((head, Vec::new()));
        }
        self.n_bytes += chunk.data.len() as u64;
        if self.n_bytes > MAX_FETCHED_BYTES {
            return Err(BadField::new("data", format!("more than {MAX_FETCHED_BYTES} bytes")));
        }
        match &mut self.open {
            Some((_, data)) => data.extend_from_slice(&chunk.data),
            None if chunk.data.is_empty() => {}
            None => return Err(BadField::new("head", "data before the first head")),
        }
        Ok(())
    }

    /// Everything has arrived.
    pub fn finish(mut self) -> Result<Files, BadField> {
        self.close()?;
        Ok(self.done.into_iter().collect())
    }

    fn close(&mut self) -> Result<(), BadField> {
        let Some((head, data)) = self.open.take() else { return Ok(()) };
        let path = head.path.as_str();
        let sha256: [u8; 32] = head
            .sha256
            .try_into()
            .map_err(|_| BadField::new("head.sha256", format!("of `{path}`: no 32 bytes")))?;
        let file = match head.rows {
            None => File::new(path, data),
            Some(rows) => {
                let ranges = rows.ranges.iter().map(|range| range.first..range.end).collect();
                let slice = Slice { n_rows: rows.n_rows, ranges, csv: data.into() };
                File::sliced(path, sha256, head.n_bytes, slice)
            }
        };
        if file.sha256 != sha256 || file.n_bytes != head.n_bytes {
            return Err(BadField::new("data", format!("`{path}` arrived damaged")));
        }
        self.done.push(file);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use shoal_domain::check::parse_plan;
    use shoal_domain::shard::{Block, Shard};

    fn shipped(path: &str, body: &[u8]) -> v1::ShippedFile {
        v1::ShippedFile { path: path.to_owned(), body: body.to_vec() }
    }

    #[test]
    fn what_is_sent_in_chunks_arrives_whole_or_as_its_rows() {
        const TEXT: &str = "version: 1\nname: t\ntargets: { t: { mqtt: { url: builtin, ca: ca.pem } } }\ngroups: { g: { target: t, devices: 3, rows: u.csv, send: { s: { every: 1s, publish: { topic: a, text: '${row.u}' } } } } }\nload: [ { ramp: { to: 100%, over: 1s } } ]\n";
        let ca = [b"-----BEGIN CERTIFICATE-----".as_slice(), &vec![b'x'; 3 << 20]].concat();
        let sent = vec![shipped("ca.pem", &ca), shipped("u.csv", b"u\na\n\"b\nb\"\nc\n")];
        let plan = parse_plan(TEXT, &[], &files_from_wire(sent).unwrap()).unwrap();
        let shard = Shard { blocks: vec![Block::new(0, 1..2)] };
        let mut assembler = Assembler::default();
        for chunk in shard.files(&plan).iter().flat_map(chunks) {
            assembler.add(chunk).unwrap();
        }
        let part = parse_plan(TEXT, &[], &assembler.finish().unwrap()).unwrap();
        assert_eq!(part.hash(), plan.hash());
        assert_eq!(part.files[0].bytes(), Some(ca.as_slice()));
        let rows = part.groups[0].rows.as_ref().unwrap();
        assert_eq!((rows.cell(0, 0), rows.cell(1, 0)), (None, Some("b\nb")));
    }

    #[test]
    fn a_hostile_peer_is_refused() {
        for path in ["/etc/passwd", "../x", "a/./b", ""] {
            assert!(files_from_wire(vec![shipped(path, b"")]).is_err(), "{path}");
        }
        assert!(files_from_wire(vec![shipped("a", b""), shipped("a", b"")]).is_err());
        let large = vec![0; MAX_TOTAL_BYTES as usize];
        assert!(files_from_wire(vec![shipped("a", &large), shipped("b", b"x")]).is_err());

        let mut assembler = Assembler::default();
        assert!(assembler.add(v1::FileChunk { head: None, data: vec![1] }).is_err());
        let head =
            v1::FileHead { path: "a".to_owned(), sha256: vec![0; 32], n_bytes: 1, rows: None };
        let damaged = v1::FileChunk { head: Some(head), data: vec![1] };
        assembler.add(damaged.clone()).unwrap();
        assert!(assembler.add(damaged).unwrap_err().to_string().contains("damaged"));
    }
}
