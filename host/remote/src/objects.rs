//! Files in S3 and in folders, by object_store.

use std::{
    fs::File,
    io::{Read, Write},
    path::PathBuf,
};

use futures::StreamExt;
use object_store::{
    Certificate, ClientOptions, ObjectStore, ObjectStoreExt, PutPayload, WriteMultipart,
    aws::AmazonS3Builder, path::Path,
};

use crate::{
    Listed, Options,
    backend::{Backend, Got, Later, too_many},
};

/// What is larger goes in parts: S3 takes at most 5 GiB at once.
const WHOLE_MAX_BYTES: u64 = 16 << 20;
/// A part. S3 takes 10,000 of them, which makes 160 GiB for a layer.
const PART_BYTES: usize = 16 << 20;
/// Parts on their way at a time; bounds the memory.
const PARTS_IN_FLIGHT: usize = 2;

/// The bucket, by the variables that every tool for S3 reads: `AWS_ACCESS_KEY_ID`,
/// `AWS_SECRET_ACCESS_KEY`, `AWS_SESSION_TOKEN`, `AWS_REGION`, `AWS_ENDPOINT_URL`, …
pub(crate) fn s3(bucket: &str, options: &Options) -> Result<impl ObjectStore, object_store::Error> {
    // Another library may have chosen a provider before; any will do.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut client = ClientOptions::new();
    if let Some(bundle) = &options.ca_bundle {
        for certificate in Certificate::from_pem_bundle(bundle)? {
            client = client.with_root_certificate(certificate);
        }
    }
    let plain = ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"]
        .iter()
        .filter_map(|name| std::env::var(name).ok())
        .any(|url| url.starts_with("http://"));
    // Only an endpoint that the user writes with http:// is reached so.
    let client = client.with_allow_http(plain);
    AmazonS3Builder::from_env().with_client_options(client).with_bucket_name(bucket).build()
}

/// Anything that object_store reaches.
#[derive(Debug)]
pub(crate) struct Objects {
    pub(crate) store: Box<dyn ObjectStore>,
    /// Where they are files that others shall be able to read.
    pub(crate) folder: Option<PathBuf>,
}

impl Objects {
    /// Gives a file that was put the permissions that the user's umask leaves, and so the
    /// directories that it is in. What belongs to others has them already.
    fn share(&self, name: &str) {
        let Some(folder) = &self.folder else { return };
        let _ = rooted::allow_user_mode_at(&folder.join(name), 0o666);
        let parents = std::path::Path::new(name).ancestors().skip(1);
        for parent in parents.filter(|parent| !parent.as_os_str().is_empty()) {
            let _ = rooted::allow_user_mode_at(&folder.join(parent), 0o777);
        }
    }
}

impl Backend for Objects {
    fn exists<'a>(&'a self, name: &'a str) -> Later<'a, bool> {
        Box::pin(async move {
            match self.store.head(&Path::from(name)).await {
                Ok(_) => Ok(true),
                Err(object_store::Error::NotFound { .. }) => Ok(false),
                Err(error) => Err(error.into()),
            }
        })
    }

    fn get<'a>(&'a self, name: &'a str, to: &'a mut File, max_bytes: u64) -> Later<'a, Got> {
        Box::pin(async move {
            let found = match self.store.get(&Path::from(name)).await {
                Ok(found) => found,
                Err(object_store::Error::NotFound { .. }) => return Ok(Got::Missing),
                Err(error) => return Err(error.into()),
            };
            // What it says of itself saves the transfer; the count below holds it
            // to that.
            if found.meta.size > max_bytes {
                return Ok(Got::Larger);
            }
            let mut stream = found.into_stream();
            let mut bytes = 0;
            while let Some(part) = stream.next().await {
                let part = part?;
                bytes += part.len() as u64;
                if bytes > max_bytes {
                    return Ok(Got::Larger);
                }
                to.write_all(&part)?;
            }
            Ok(Got::Whole(bytes))
        })
    }

    fn list<'a>(&'a self, folder: &'a str, max: usize) -> Later<'a, Vec<Listed>> {
        Box::pin(async move {
            let folder = Path::from(folder);
            let mut found = self.store.list(Some(&folder));
            let mut listed = Vec::new();
            while let Some(file) = found.next().await {
                let file = file?;
                // Files in folders of the folder do not count.
                let mut below = match file.location.prefix_match(&folder) {
                    Some(below) => below,
                    None => continue,
                };
                let (Some(name), None) = (below.next(), below.next()) else { continue };
                if listed.len() >= max {
                    return Err(too_many(max));
                }
                listed.push(Listed { name: name.as_ref().to_owned(), bytes: file.size });
            }
            Ok(listed)
        })
    }

    fn put<'a>(&'a self, name: &'a str, from: &'a mut File, bytes: u64) -> Later<'a, ()> {
        Box::pin(async move {
            let path = Path::from(name);
            if bytes <= WHOLE_MAX_BYTES {
                let mut content = Vec::new();
                from.read_to_end(&mut content)?;
                self.store.put(&path, PutPayload::from(content)).await?;
                self.share(name);
                return Ok(());
            }
            let upload = self.store.put_multipart(&path).await?;
            let mut parts = WriteMultipart::new_with_chunk_size(upload, PART_BYTES);
            let mut buffer = vec![0; PART_BYTES];
            loop {
                let count = from.read(&mut buffer)?;
                if count == 0 {
                    break;
                }
                let ready = parts.wait_for_capacity(PARTS_IN_FLIGHT).await;
                if let Err(error) = ready {
                    // Parts of a broken upload cost money where they lie.
                    let _ = parts.abort().await;
                    return Err(error.into());
                }
                parts.write(&buffer[..count]);
            }
            parts.finish().await?;
            self.share(name);
            Ok(())
        })
    }
}
