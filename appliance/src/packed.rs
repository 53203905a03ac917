//! Decompressors with limits on memory and output. Their input comes from a mirror; the signed
//! index authenticates its digest, but does not bound its uncompressed size.

use std::io::{self, BufRead, Read};

use liblzma::stream::{CONCATENATED, Stream};

/// Memory limit of the xz decoder. The format allows dictionaries of 4 GiB; the largest preset, `xz
/// -9`, needs 65 MiB.
const XZ_MEMORY_MAX_BYTES: u64 = 256 << 20;
/// Base-2 logarithm of the maximum zstd window: 128 MiB, the default limit of `zstd -d`.
const ZSTD_WINDOW_LOG_MAX: u32 = 27;

/// Decompresses one or several concatenated xz streams.
pub(crate) fn xz<R: BufRead>(input: R) -> io::Result<liblzma::bufread::XzDecoder<R>> {
    let stream = Stream::new_stream_decoder(XZ_MEMORY_MAX_BYTES, CONCATENATED)?;
    Ok(liblzma::bufread::XzDecoder::new_stream(input, stream))
}

/// Decompresses a zstd stream.
pub(crate) fn zstd<'a, R: BufRead>(input: R) -> io::Result<zstd::Decoder<'a, R>> {
    let mut decoder = zstd::Decoder::with_buffer(input)?;
    decoder.window_log_max(ZSTD_WINDOW_LOG_MAX)?;
    Ok(decoder)
}

/// Limits a reader: reading more than `bytes` bytes fails, where [`Read::take`] would end silently.
pub(crate) fn at_most<R: Read>(input: R, bytes: u64) -> AtMost<R> {
    AtMost { input, limit: bytes, left: bytes }
}

/// A reader that fails if its limit is exceeded.
#[derive(Debug)]
pub(crate) struct AtMost<R> {
    input: R,
    limit: u64,
    left: u64,
}

impl<R: Read> Read for AtMost<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.input.read(buffer)?;
        self.left = self.left.checked_sub(count as u64).ok_or_else(|| {
            let reason = format!("it is larger than {} MiB when unpacked", self.limit >> 20);
            io::Error::new(io::ErrorKind::InvalidData, reason)
        })?;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use liblzma::stream::{Check, Filters, LzmaOptions};

    use super::*;

    fn packed(dictionary: u32) -> Vec<u8> {
        let mut options = LzmaOptions::new_preset(0).unwrap();
        options.dict_size(dictionary);
        let mut filters = Filters::new();
        filters.lzma2(&options);
        let stream = Stream::new_stream_encoder(&filters, Check::Crc32).unwrap();
        let mut out = Vec::new();
        liblzma::read::XzEncoder::new_stream(&b"text"[..], stream).read_to_end(&mut out).unwrap();
        out
    }

    #[test]
    fn memory_and_size_have_limits() {
        let mut text = String::new();
        xz(packed(64 << 20).as_slice()).unwrap().read_to_string(&mut text).unwrap();
        assert_eq!(text, "text");
        // The encoder itself would need ten times this memory; the header alone makes the decoder
        // need it.
        let error = xz(packed(300 << 20).as_slice()).unwrap().read(&mut [0; 8]).unwrap_err();
        assert!(error.to_string().contains("memory"), "{error}");
        let mut all = Vec::new();
        at_most(&[1; 8][..], 8).read_to_end(&mut all).unwrap();
        let error = at_most(&[1; 9][..], 8).read_to_end(&mut all).unwrap_err();
        assert!(error.to_string().contains("larger than"), "{error}");
    }
}
