//! Paths of a description: relative ones stay below the artifact's directory, absolute ones are the
//! guest's.

/// Normalizes a relative path that stays below its base directory.
pub(crate) fn relative(path: &str) -> Option<String> {
    (!path.starts_with('/')).then_some(())?;
    normal(path).filter(|path| !path.is_empty())
}

/// Normalizes an absolute path and removes its leading slash.
pub(crate) fn absolute(path: &str) -> Option<String> {
    path.strip_prefix('/').and_then(normal)
}

fn normal(path: &str) -> Option<String> {
    let parts: Vec<&str> = path.split('/').filter(|part| !matches!(*part, "" | ".")).collect();
    let odd = parts.contains(&"..") || path.contains('\0');
    (!odd).then(|| parts.join("/"))
}
