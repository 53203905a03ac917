//! Files and directory trees of the guest: changes, and transfers from and to the host.

use std::io::{Read, Write};

use tokio::{io::AsyncReadExt, sync::mpsc};
use wire::{Channel, DATA_MAX_BYTES, FileOperation, FileStat, Reply, Request};

use crate::{
    Incoming, Session, SessionError,
    connection::{DataSender, Stream},
};

/// Maximum number of received chunks that wait for the blocking reader of a [`TarDownload`].
const PIPE_CHUNKS: usize = 16;

impl Session {
    /// Returns the status of a file; `None` if the path does not exist. A final symbolic link is
    /// not followed.
    ///
    /// # Errors
    /// Fails with [`SessionError::Guest`] if the path cannot be looked up.
    pub async fn stat(&self, root: &str, path: &str) -> Result<Option<FileStat>, SessionError> {
        match self.file(FileOperation::Stat { root: root.into(), path: path.into() }).await? {
            Reply::Stat { stat } => Ok(stat),
            other => Err(SessionError::unexpected(&other)),
        }
    }

    /// Lists the entries of a directory, sorted by the bytes of their names.
    ///
    /// # Errors
    /// Fails with [`SessionError::Guest`] if the path is not a directory.
    pub async fn list(
        &self,
        root: &str,
        path: &str,
    ) -> Result<Vec<(String, FileStat)>, SessionError> {
        match self.file(FileOperation::List { root: root.into(), path: path.into() }).await? {
            Reply::Entries { entries } => Ok(entries),
            other => Err(SessionError::unexpected(&other)),
        }
    }

    /// Returns the size of a tree in KiB, as `du -x -k` computes it.
    ///
    /// # Errors
    /// Fails with [`SessionError::Guest`] if the tree cannot be read.
    pub async fn disk_usage(&self, root: &str, path: &str) -> Result<u64, SessionError> {
        match self.file(FileOperation::Usage { root: root.into(), path: path.into() }).await? {
            Reply::Usage { kib } => Ok(kib),
            other => Err(SessionError::unexpected(&other)),
        }
    }

    /// Creates a directory and its missing parents. An existing directory is not changed.
    ///
    /// # Errors
    /// Fails with [`SessionError::Guest`] if the directory cannot be created.
    pub async fn make_directory(
        &self,
        root: &str,
        path: &str,
        mode: u32,
    ) -> Result<(), SessionError> {
        let (root, path) = (root.to_owned(), path.to_owned());
        self.change(FileOperation::MakeDirectory { root, path, mode }).await
    }

    /// Creates a symbolic link, replacing an existing file or link.
    ///
    /// # Errors
    /// Fails with [`SessionError::Guest`] if the link cannot be created.
    pub async fn symlink(&self, root: &str, path: &str, target: &str) -> Result<(), SessionError> {
        let (root, path, target) = (root.to_owned(), path.to_owned(), target.to_owned());
        self.change(FileOperation::Symlink { root, path, target }).await
    }

    /// Removes a file, a link or a tree, without descending into other filesystems. A missing path
    /// is not an error.
    ///
    /// # Errors
    /// Fails with [`SessionError::Guest`] if something cannot be removed.
    pub async fn remove(&self, root: &str, path: &str) -> Result<(), SessionError> {
        let (root, path) = (root.to_owned(), path.to_owned());
        self.change(FileOperation::Remove { root, path, content_only: false }).await
    }

    /// Like [`Session::remove`], but keeps the directory itself.
    ///
    /// # Errors
    /// Fails with [`SessionError::Guest`] if something cannot be removed.
    pub async fn remove_content(&self, root: &str, path: &str) -> Result<(), SessionError> {
        let (root, path) = (root.to_owned(), path.to_owned());
        self.change(FileOperation::Remove { root, path, content_only: true }).await
    }

    /// Renames a file within one filesystem.
    ///
    /// # Errors
    /// Fails with [`SessionError::Guest`] if the file cannot be renamed.
    pub async fn rename(&self, root: &str, from: &str, to: &str) -> Result<(), SessionError> {
        let (root, from, to) = (root.to_owned(), from.to_owned(), to.to_owned());
        self.change(FileOperation::Rename { root, from, to }).await
    }

    /// Truncates every regular file below a directory to zero length.
    ///
    /// # Errors
    /// Fails with [`SessionError::Guest`] if a file cannot be truncated.
    pub async fn truncate_all(&self, root: &str, path: &str) -> Result<(), SessionError> {
        let (root, path) = (root.to_owned(), path.to_owned());
        self.change(FileOperation::TruncateAll { root, path }).await
    }

    async fn file(&self, operation: FileOperation) -> Result<Reply, SessionError> {
        self.request(&Request::File(operation)).await
    }

    async fn change(&self, operation: FileOperation) -> Result<(), SessionError> {
        self.perform(&Request::File(operation)).await
    }

    /// Creates or replaces a file of the guest, owned by root; see [`Request::PutFile`].
    ///
    /// # Errors
    /// Fails with [`SessionError::Guest`] if the guest cannot write the file.
    pub async fn put_file(
        &self,
        root: &str,
        path: &str,
        mode: u32,
        content: &[u8],
    ) -> Result<(), SessionError> {
        let request = Request::PutFile { root: root.to_owned(), path: path.to_owned(), mode };
        let stream = self.connection.open(&request).await?;
        let sender = stream.sender();
        if sender.send(content).await {
            sender.end().await;
        }
        finish(stream).await
    }

    /// Reads a file of the guest, which must not be larger than `max_bytes`.
    ///
    /// # Errors
    /// Fails with [`SessionError::Guest`] if the file is missing or larger, and with
    /// [`SessionError::Frame`] if the guest sends more than `max_bytes` nevertheless.
    pub async fn get_file(
        &self,
        root: &str,
        path: &str,
        max_bytes: u64,
    ) -> Result<Vec<u8>, SessionError> {
        let request = Request::GetFile { root: root.to_owned(), path: path.to_owned(), max_bytes };
        let mut stream = self.connection.open(&request).await?;
        let mut content = Vec::new();
        loop {
            match stream.next().await? {
                Incoming::Data(_, bytes) => {
                    content.extend_from_slice(&bytes);
                    if content.len() as u64 > max_bytes {
                        return Err(SessionError::Frame(wire::FrameError::Protocol(format!(
                            "`{path}` grew over {max_bytes} bytes"
                        ))));
                    }
                }
                Incoming::Reply(Reply::Done {}) => return Ok(content),
                Incoming::Reply(Reply::Failed(failure)) => {
                    return Err(SessionError::Guest(failure));
                }
                Incoming::Reply(other) => return Err(SessionError::unexpected(&other)),
                Incoming::End => {}
            }
        }
    }

    /// Unpacks a tar stream in the guest; see [`Request::PutTar`]. `archive` writes the stream; it
    /// is called on a blocking thread.
    ///
    /// # Errors
    /// Returns the error of `archive`, or fails with [`SessionError::Guest`] if the guest cannot
    /// unpack the stream.
    pub async fn put_tar<F>(&self, root: &str, path: &str, archive: F) -> Result<(), SessionError>
    where
        F: FnOnce(&mut dyn Write) -> std::io::Result<()> + Send + 'static,
    {
        let request = Request::PutTar { root: root.to_owned(), path: path.to_owned() };
        let stream = self.connection.open(&request).await?;
        let sender = stream.sender();
        let written = feed(sender, archive).await;
        match written {
            Ok(()) => finish(stream).await,
            // The guest gave up first; its own error is more precise.
            Err(source) if source.kind() == std::io::ErrorKind::BrokenPipe => finish(stream).await,
            Err(source) => Err(SessionError::Io { action: format!("upload to `{path}`"), source }),
        }
    }

    /// Writes bytes to a disk of the guest at an offset.
    ///
    /// # Errors
    /// Fails with [`SessionError::Guest`] if the guest cannot write.
    pub async fn write_block(
        &self,
        device: &str,
        offset: u64,
        bytes: &[u8],
    ) -> Result<(), SessionError> {
        let request = Request::BlockWrite { device: device.to_owned(), offset };
        let stream = self.connection.open(&request).await?;
        let sender = stream.sender();
        if sender.send(bytes).await {
            sender.end().await;
        }
        finish(stream).await
    }

    /// Packs a tree of the guest as a tar stream; see [`Request::GetTar`].
    ///
    /// # Errors
    /// Fails if the guest is gone. Errors of packing are returned by the reader.
    pub async fn get_tar(
        &self,
        root: &str,
        path: &str,
        exclude: Vec<String>,
    ) -> Result<TarDownload, SessionError> {
        let request = Request::GetTar { root: root.to_owned(), path: path.to_owned(), exclude };
        let mut stream = self.connection.open(&request).await?;
        let (sender, chunks) = mpsc::channel(PIPE_CHUNKS);
        tokio::spawn(async move {
            loop {
                let item = match stream.next().await {
                    Ok(Incoming::Data(Channel::Main, bytes)) => Ok(bytes),
                    Ok(Incoming::Data(..) | Incoming::End) => continue,
                    Ok(Incoming::Reply(Reply::Done {})) => return,
                    Ok(Incoming::Reply(Reply::Failed(failure))) => {
                        Err(SessionError::Guest(failure))
                    }
                    Ok(Incoming::Reply(other)) => Err(SessionError::unexpected(&other)),
                    Err(error) => Err(error),
                };
                let over = item.is_err();
                if sender.send(item).await.is_err() || over {
                    return;
                }
            }
        });
        Ok(TarDownload { chunks, current: Vec::new(), position: 0 })
    }
}

/// Waits for the final reply of a stream whose data has been sent.
async fn finish(mut stream: Stream) -> Result<(), SessionError> {
    loop {
        match stream.next().await? {
            Incoming::Reply(Reply::Done {}) => return Ok(()),
            Incoming::Reply(Reply::Failed(failure)) => return Err(SessionError::Guest(failure)),
            Incoming::Reply(other) => return Err(SessionError::unexpected(&other)),
            Incoming::Data(..) | Incoming::End => {}
        }
    }
}

/// Runs `archive` on a blocking thread, and sends what it writes.
async fn feed<F>(sender: DataSender, archive: F) -> std::io::Result<()>
where
    F: FnOnce(&mut dyn Write) -> std::io::Result<()> + Send + 'static,
{
    let (mut near, far) = tokio::io::duplex(4 * DATA_MAX_BYTES);
    let handle = tokio::runtime::Handle::current();
    let writer = tokio::task::spawn_blocking(move || {
        let mut pipe = tokio_bridge::SyncWriter { inner: far, handle };
        archive(&mut pipe)
    });
    let mut buffer = vec![0; DATA_MAX_BYTES];
    loop {
        let count = near.read(&mut buffer).await?;
        if count == 0 {
            break;
        }
        if !sender.send(&buffer[..count]).await {
            drop(near);
            let _ = writer.await;
            return Err(std::io::ErrorKind::BrokenPipe.into());
        }
    }
    let written = writer.await.unwrap_or_else(|panic| Err(std::io::Error::other(panic)));
    // The end is sent only for a complete archive. After a failure, the guest waits for the rest of
    // the archive until the session ends.
    if written.is_ok() {
        sender.end().await;
    }
    written
}

/// A minimal adapter from a blocking writer to an async pipe.
mod tokio_bridge {
    use std::io::{self, Write};

    use tokio::io::{AsyncWriteExt, DuplexStream};

    pub(super) struct SyncWriter {
        pub(super) inner: DuplexStream,
        pub(super) handle: tokio::runtime::Handle,
    }

    impl Write for SyncWriter {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.handle.block_on(self.inner.write(bytes))
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
}

/// A tar stream from the guest. Its `Read` blocks, so it must be used on a blocking thread.
#[derive(Debug)]
pub struct TarDownload {
    chunks: mpsc::Receiver<Result<Vec<u8>, SessionError>>,
    current: Vec<u8>,
    position: usize,
}

impl Read for TarDownload {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        while self.position == self.current.len() {
            match self.chunks.blocking_recv() {
                None => return Ok(0),
                Some(Ok(chunk)) => {
                    self.current = chunk;
                    self.position = 0;
                }
                Some(Err(error)) => return Err(std::io::Error::other(error)),
            }
        }
        let count = buffer.len().min(self.current.len() - self.position);
        buffer[..count].copy_from_slice(&self.current[self.position..self.position + count]);
        self.position += count;
        Ok(count)
    }
}
