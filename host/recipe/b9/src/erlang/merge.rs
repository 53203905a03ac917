//! B9's merge of two terms.

use super::Term;

/// Merges two terms. In two lists, pairs are matched by their keys; a non-list is added to a list;
/// any other two terms become a list.
pub(crate) fn merge(left: Term, right: Term) -> Term {
    match (left, right) {
        (Term::List(left), Term::List(right)) => Term::List(merge_lists(left, right)),
        (Term::List(mut left), right) => {
            left.push(right);
            Term::List(left)
        }
        (left, Term::List(mut right)) => {
            right.insert(0, left);
            Term::List(right)
        }
        (left, right) => Term::List(vec![left, right]),
    }
}

/// A tuple of two elements.
type Pair = (Term, Term);

fn merge_lists(left: Vec<Term>, right: Vec<Term>) -> Vec<Term> {
    let (mut merged, left_pairs) = split(left);
    let (others, right_pairs) = split(right);
    let (mut only_left, mut both, mut only_right) = (Vec::new(), Vec::new(), Vec::new());
    let (mut left, mut right) =
        (left_pairs.into_iter().peekable(), right_pairs.into_iter().peekable());
    loop {
        let order = match (left.peek(), right.peek()) {
            (Some((left, _)), Some((right, _))) => left.cmp(right),
            (Some(_), None) => std::cmp::Ordering::Less,
            (None, Some(_)) => std::cmp::Ordering::Greater,
            (None, None) => break,
        };
        match order {
            std::cmp::Ordering::Less => only_left.extend(left.next()),
            std::cmp::Ordering::Greater => only_right.extend(right.next()),
            std::cmp::Ordering::Equal => {
                if let (Some((key, one)), Some((_, other))) = (left.next(), right.next()) {
                    both.push((key, merge(one, other)));
                }
            }
        }
    }
    let tuples =
        |pairs: Vec<Pair>| pairs.into_iter().map(|(key, value)| Term::Tuple(vec![key, value]));
    merged.extend(tuples(only_left));
    merged.extend(tuples(both));
    merged.extend(others);
    merged.extend(tuples(only_right));
    merged
}

/// Splits items into those that are not pairs, and the pairs sorted by key.
fn split(items: Vec<Term>) -> (Vec<Term>, Vec<Pair>) {
    let (mut others, mut pairs) = (Vec::new(), Vec::new());
    for item in items {
        match item {
            Term::Tuple(mut parts) if parts.len() == 2 => {
                if let (Some(value), Some(key)) = (parts.pop(), parts.pop()) {
                    pairs.push((key, value));
                }
            }
            other => others.push(other),
        }
    }
    pairs.sort_by(|(one, _), (other, _)| one.cmp(other));
    (others, pairs)
}
