//! Opens the backend of a place: `object_store` for S3 and directories, ssh for other machines.

use std::sync::Arc;

use object_store::{local::LocalFileSystem, path::Path, prefix::PrefixStore};

use crate::{
    Options, Place, RemoteError,
    backend::Backend,
    objects::{Objects, s3},
    ssh::Ssh,
};

/// Returns the backend of a place.
pub(crate) fn open(place: &Place, options: &Options) -> Result<Arc<dyn Backend>, RemoteError> {
    let wrong = |error: object_store::Error| RemoteError::Place {
        text: place.to_string(),
        reason: error.to_string(),
    };
    match place {
        Place::S3 { bucket, prefix } => {
            let store = s3(bucket, options).map_err(wrong)?;
            let prefix = Path::from(prefix.as_str());
            Ok(Arc::new(Objects { store: Box::new(PrefixStore::new(store, prefix)), folder: None }))
        }
        Place::Folder(folder) => {
            let made = rooted::make_user_directories(folder);
            made.map_err(|error| RemoteError::Place {
                text: place.to_string(),
                reason: format!("it cannot be made: {error}"),
            })?;
            let store = LocalFileSystem::new_with_prefix(folder).map_err(wrong)?;
            Ok(Arc::new(Objects { store: Box::new(store), folder: Some(folder.clone()) }))
        }
        Place::Ssh { host, port, folder } => Ok(Arc::new(Ssh::new(options, host, *port, folder))),
    }
}
