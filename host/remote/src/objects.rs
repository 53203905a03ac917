//! Files in S3 and in directories, accessed by `object_store`.

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

/// Larger files are uploaded in parts: S3 accepts at most 5 GiB in one request.
const WHOLE_MAX_BYTES: u64 = 16 << 20;
/// The size of a part. S3 accepts 10,000 parts, so a file may have 156 GiB.
const PART_BYTES: usize = 16 << 20;
/// Maximum number of parts that are uploaded at the same time; bounds the memory.
const PARTS_IN_FLIGHT: usize = 2;

/// Opens a bucket, configured by the variables that all tools for S3 use: `AWS_ACCESS_KEY_ID`,
/// `AWS_SECRET_ACCESS_KEY`, `AWS_SESSION_TOKEN`, `AWS_REGION`, `AWS_ENDPOINT_URL`, …
pub(crate) fn s3(bucket: &str, options: &Options) -> Result<impl ObjectStore, object_store::Error> {
    // Another library may have installed a provider before; any of them is suitable.
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
    // Plain HTTP is permitted only if the user has configured an endpoint with http://.
    let client = client.with_allow_http(plain);
    AmazonS3Builder::from_env().with_client_options(client).with_bucket_name(bucket).build()
}

/// Files in any store that `object_store` supports.
#[derive(Debug)]
pub(crate) struct Objects {
    pub(crate) store: Box<dyn ObjectStore>,
    /// The directory with the files, if they are on this host: other users must be able to read
    /// them.
    pub(crate) folder: Option<PathBuf>,
}

impl Objects {
    /// Gives a new file, and the directories above it, the permissions that the user's umask
    /// allows. This fails for directories of other users, which have set their permissions.
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
            // The reported size can save the transfer; the count below does not rely on it.
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
                // Skip files in subdirectories.
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
                    // The parts of an incomplete upload would take paid space.
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
