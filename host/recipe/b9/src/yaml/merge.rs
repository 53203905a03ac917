//! B9's merge of two documents.

use super::Yaml;

/// The keys that lead to a concatenated string, for a warning.
pub(crate) type Joined = Vec<String>;

/// Merges two documents. Maps are united and lists joined; a non-list is added to a list; strings
/// are concatenated without a separator, which gives a warning since it is seldom intended; any
/// other two values become a list.
pub(crate) fn merge(left: Yaml, right: Yaml, joined: &mut Joined) -> Yaml {
    merge_at(left, right, &mut String::new(), joined)
}

fn merge_at(left: Yaml, right: Yaml, path: &mut String, joined: &mut Joined) -> Yaml {
    match (left, right) {
        (Yaml::Map(mut left), Yaml::Map(right)) => {
            for (key, value) in right {
                let length = path.len();
                path.push_str(if path.is_empty() { "" } else { "." });
                path.push_str(&key);
                let value = match left.remove(&key) {
                    Some(old) => merge_at(old, value, path, joined),
                    None => value,
                };
                path.truncate(length);
                left.insert(key, value);
            }
            Yaml::Map(left)
        }
        (Yaml::List(mut left), Yaml::List(right)) => {
            left.extend(right);
            Yaml::List(left)
        }
        (Yaml::List(mut left), right) => {
            left.push(right);
            Yaml::List(left)
        }
        (left, Yaml::List(mut right)) => {
            right.insert(0, left);
            Yaml::List(right)
        }
        (Yaml::Text(left), Yaml::Text(right)) => {
            if !left.is_empty() && !right.is_empty() {
                joined.push(path.clone());
            }
            Yaml::Text(left + &right)
        }
        (left, right) => Yaml::List(vec![left, right]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::yaml::read;

    #[test]
    fn joined_strings_are_told() {
        let mut joined = Joined::new();
        let one = read("{a: {b: x, c: y}}").unwrap();
        let other = read("{a: {b: z, c: ''}}").unwrap();
        merge(one, other, &mut joined);
        assert_eq!(joined, ["a.b"]);
    }
}
