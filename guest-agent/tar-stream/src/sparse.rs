//! Reads the maps of sparse files: GNU's own format, and the PAX format with the map before the
//! data.

use std::io::{self, Read};

use crate::{
    BLOCK_BYTES, EXTENTS_MAX,
    header::{Header, number},
    records::decimal,
};

/// The maximum number of digits of a number in the map.
const DIGITS_MAX: usize = 20;

/// An error while reading a map.
#[derive(Debug)]
pub(crate) enum MapError {
    Read(io::Error),
    Bad(&'static str),
}

type Extents = Vec<(u64, u64)>;

/// Reads a map in GNU's format: four extents in the header, more in the blocks after it. Sets
/// `size` to the real size of the file.
pub(crate) fn gnu_map(
    input: &mut impl Read,
    header: &Header,
    size: &mut u64,
) -> Result<Extents, MapError> {
    let mut map = Vec::new();
    take_pairs(&header.block[386..482], &mut map)?;
    let mut more = header.block[482] != 0;
    *size = number(&header.block[483..495]).ok_or(MapError::Bad("a malformed size"))?;
    while more {
        let mut block = [0; BLOCK_BYTES];
        input.read_exact(&mut block).map_err(MapError::Read)?;
        take_pairs(&block[..504], &mut map)?;
        more = block[504] != 0;
    }
    Ok(map)
}

fn take_pairs(fields: &[u8], map: &mut Extents) -> Result<(), MapError> {
    for pair in fields.chunks_exact(24) {
        if pair[0] == 0 {
            break;
        }
        let (Some(offset), Some(length)) = (number(&pair[..12]), number(&pair[12..])) else {
            return Err(MapError::Bad("a malformed map of a sparse file"));
        };
        push(map, offset, length)?;
    }
    Ok(())
}

fn push(map: &mut Extents, offset: u64, length: u64) -> Result<(), MapError> {
    if map.len() >= EXTENTS_MAX {
        return Err(MapError::Bad("a sparse file with too many extents"));
    }
    map.push((offset, length));
    Ok(())
}

/// Reads the map at the start of the data: decimal numbers on lines of their own, the first of them
/// the number of extents, padded to whole blocks. Returns the map and its size in bytes.
pub(crate) fn pax_map(input: &mut impl Read, stored: u64) -> Result<(Extents, u64), MapError> {
    let mut reader = Lines { input, block: [0; BLOCK_BYTES], at: BLOCK_BYTES, used: 0, stored };
    let count = reader.line()?;
    let mut map = Vec::new();
    for _ in 0..count {
        let (offset, length) = (reader.line()?, reader.line()?);
        push(&mut map, offset, length)?;
    }
    Ok((map, reader.used))
}

struct Lines<'a, R> {
    input: &'a mut R,
    block: [u8; BLOCK_BYTES],
    at: usize,
    used: u64,
    stored: u64,
}

impl<R: Read> Lines<'_, R> {
    fn line(&mut self) -> Result<u64, MapError> {
        let bad = MapError::Bad("a malformed map of a sparse file");
        let mut digits = Vec::new();
        loop {
            match self.byte()? {
                b'\n' => return decimal(&digits).ok_or(bad),
                _ if digits.len() >= DIGITS_MAX => return Err(bad),
                digit => digits.push(digit),
            }
        }
    }

    fn byte(&mut self) -> Result<u8, MapError> {
        if self.at == BLOCK_BYTES {
            let next = self.used + BLOCK_BYTES as u64;
            if next > self.stored {
                return Err(MapError::Bad("the map of a sparse file is longer than its data"));
            }
            self.input.read_exact(&mut self.block).map_err(MapError::Read)?;
            (self.at, self.used) = (0, next);
        }
        self.at += 1;
        Ok(self.block[self.at - 1])
    }
}

/// Checks that extents are in order, within the file, and together as long as the stored data.
pub(crate) fn check(extents: &[(u64, u64)], size: u64, stored: u64) -> Result<(), &'static str> {
    let (mut end, mut total) = (0u64, 0u64);
    for (offset, length) in extents {
        let next = offset.checked_add(*length).ok_or("an extent beyond all sizes")?;
        if *offset < end || next > size {
            return Err("extents of a sparse file that overlap or pass its end");
        }
        (end, total) = (next, total.checked_add(*length).ok_or("extents beyond all sizes")?);
    }
    if total == stored { Ok(()) } else { Err("extents of a sparse file that differ from its data") }
}
