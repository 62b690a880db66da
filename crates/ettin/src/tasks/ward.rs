//! Pooling of token vectors: alike vectors of a document are brought together by Ward's method.
//!
//! The clusters, and their order, are those of scipy's `linkage(method="ward")` and `fcluster(criterion="maxclust")`,
//! of which PyLate and sentence-transformers keep the means in the order of the labels. Distances are 1 − v·v in f32,
//! merged in f64.

/// Replaces the rows of `vectors` `[n, size]` behind the first `protected` by at most `(n − protected) / factor` means
/// of clusters, at least one, in the order of scipy's labels; as they are where nothing is to be merged.
///
/// `factor` is at least 1. Work grows with n², memory as well: n is a number of tokens.
pub(crate) fn pooled(vectors: &[f32], size: usize, factor: f64, protected: usize) -> Vec<f32> {
    let rows = vectors.len() / size.max(1);
    let protected = protected.min(rows);
    let (kept, rest) = vectors.split_at(protected * size);
    let count = rows - protected;
    // Python's `//` rounds the exact quotient down, which a division may have rounded up.
    let quotient = (count as f64 / factor).floor();
    let over = quotient.mul_add(factor, -(count as f64)) > 0.0;
    let clusters = (quotient as usize - usize::from(over)).max(1);
    if clusters >= count {
        return vectors.to_vec();
    }
    let labels = labels(&distances(rest, size, count), count, clusters);
    let most = labels.iter().max().map_or(0, |&most| most + 1);
    let (mut sums, mut sizes) = (vec![0.0f32; most * size], vec![0u32; most]);
    for (row, &label) in rest.chunks_exact(size).zip(&labels) {
        sizes[label] += 1;
        for (sum, x) in sums[label * size..][..size].iter_mut().zip(row) {
            *sum += x;
        }
    }
    let mut out = kept.to_vec();
    for (sums, &count) in sums.chunks_exact(size).zip(&sizes).filter(|(_, count)| **count > 0) {
        out.extend(sums.iter().map(|sum| sum / count as f32));
    }
    out
}

/// Distances of rows, each pair once: those of row 0 to the rows behind it first.
fn distances(rows: &[f32], size: usize, count: usize) -> Vec<f64> {
    let row = |i: usize| &rows[i * size..(i + 1) * size];
    let mut distances = Vec::with_capacity(count * count.saturating_sub(1) / 2);
    for i in 0..count {
        for j in i + 1..count {
            let dot: f32 = row(i).iter().zip(row(j)).map(|(a, b)| a * b).sum();
            distances.push(f64::from((1.0 - dot).clamp(0.0, 2.0)));
        }
    }
    distances
}

/// Two clusters that become one: rows are the numbers below n, and merge i makes the cluster n + i.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Merge {
    left: usize,
    right: usize,
    distance: f64,
}

/// The cluster of each row, counted from 0, of at most so many.
fn labels(distances: &[f64], rows: usize, clusters: usize) -> Vec<usize> {
    let merges = merges(distances.to_vec(), rows);
    let heights = heights(&merges, rows);
    let height = cut(&merges, &heights, rows, clusters);
    let mut labels = vec![0; rows];
    for (label, cluster) in under(&merges, &heights, rows, height).into_iter().enumerate() {
        match cluster {
            Below::Row(row) => labels[row] = label,
            Below::Rows(members) => members.into_iter().for_each(|row| labels[row] = label),
        }
    }
    labels
}

/// Merges in the order of their distances, by chains of nearest neighbours.
fn merges(mut distances: Vec<f64>, rows: usize) -> Vec<Merge> {
    let place = |a: usize, b: usize| {
        let (a, b) = (a.min(b), a.max(b));
        rows * a - a * (a + 1) / 2 + b - a - 1
    };
    let mut sizes = vec![1usize; rows];
    let (mut found, mut chain) = (Vec::with_capacity(rows.saturating_sub(1)), Vec::<usize>::with_capacity(rows));
    for _ in 1..rows {
        if chain.is_empty() {
            chain.extend(sizes.iter().position(|&size| size > 0));
        }
        let (x, y, nearest) = loop {
            let x = chain[chain.len() - 1];
            // The one before it in the chain wins where several are as near.
            let before = chain.len().checked_sub(2).map(|at| chain[at]);
            let (mut y, mut nearest) =
                before.map_or((x, f64::INFINITY), |before| (before, distances[place(x, before)]));
            for i in (0..rows).filter(|&i| sizes[i] > 0 && i != x) {
                let distance = distances[place(x, i)];
                if distance < nearest {
                    (y, nearest) = (i, distance);
                }
            }
            // Only distances that are no numbers leave x alone.
            if before == Some(y) || y == x {
                break (x, before.unwrap_or(y), nearest);
            }
            chain.push(y);
        };
        chain.truncate(chain.len().saturating_sub(2));
        let (x, y) = (x.min(y), x.max(y));
        let (of_x, of_y) = (sizes[x] as f64, sizes[y] as f64);
        found.push(Merge { left: x, right: y, distance: nearest });
        (sizes[x], sizes[y]) = (0, sizes[x] + sizes[y]);
        for i in (0..rows).filter(|&i| sizes[i] > 0 && i != y) {
            let (from_x, from_y, of_i) = (distances[place(i, x)], distances[place(i, y)], sizes[i] as f64);
            let part = 1.0 / (of_x + of_y + of_i);
            distances[place(i, y)] = ((of_i + of_x) * part * from_x * from_x + (of_i + of_y) * part * from_y * from_y
                - of_i * part * nearest * nearest)
                .sqrt();
        }
    }
    found.sort_by(|a, b| a.distance.total_cmp(&b.distance));
    name_clusters(&mut found, rows);
    found
}

/// Members of clusters become clusters, the one of the lower number on the left.
fn name_clusters(merges: &mut [Merge], rows: usize) {
    let mut parents: Vec<usize> = (0..rows + merges.len()).collect();
    let root = |parents: &mut Vec<usize>, mut node: usize| {
        while parents[node] != node {
            parents[node] = parents[parents[node]];
            node = parents[node];
        }
        node
    };
    for (i, merge) in merges.iter_mut().enumerate() {
        let (a, b) = (root(&mut parents, merge.left), root(&mut parents, merge.right));
        (merge.left, merge.right) = (a.min(b), a.max(b));
        parents[a] = rows + i;
        parents[b] = rows + i;
    }
}

/// The largest distance at or below each merge.
fn heights(merges: &[Merge], rows: usize) -> Vec<f64> {
    let mut heights: Vec<f64> = Vec::with_capacity(merges.len());
    for merge in merges {
        let below = |node: usize| node.checked_sub(rows).map_or(f64::NEG_INFINITY, |merge| heights[merge]);
        heights.push(merge.distance.max(below(merge.left)).max(below(merge.right)));
    }
    heights
}

/// The smallest height of a merge at which at most so many clusters are left.
fn cut(merges: &[Merge], heights: &[f64], rows: usize, clusters: usize) -> f64 {
    // Under the last merge there is one.
    let mut places = 0..merges.len().saturating_sub(1);
    while !places.is_empty() {
        let middle = places.start.midpoint(places.end);
        match under(merges, heights, rows, heights[middle]).len() > clusters {
            true => places.start = middle + 1,
            false => places.end = middle,
        }
    }
    heights.get(places.start).copied().unwrap_or(f64::INFINITY)
}

/// A cluster: a row alone, or those under a merge.
enum Below {
    Row(usize),
    Rows(Vec<usize>),
}

/// The clusters whose merges are no higher, in the order in which the tree is walked: what is merged comes before rows.
fn under(merges: &[Merge], heights: &[f64], rows: usize, height: f64) -> Vec<Below> {
    /// What is left to do with a merge.
    enum Pending {
        Visit(usize),
        /// Its own rows, behind all that is merged under it.
        Rows(usize),
    }
    let mut found = Vec::new();
    let mut stack: Vec<Pending> = merges.len().checked_sub(1).map(Pending::Visit).into_iter().collect();
    while let Some(step) = stack.pop() {
        match step {
            Pending::Visit(merge) if heights[merge] <= height => found.push(Below::Rows(members(merges, rows, merge))),
            Pending::Visit(merge) => {
                stack.push(Pending::Rows(merge));
                let Merge { left, right, .. } = merges[merge];
                stack.extend([right, left].into_iter().filter_map(|node| node.checked_sub(rows)).map(Pending::Visit));
            }
            Pending::Rows(merge) => {
                let Merge { left, right, .. } = merges[merge];
                found.extend([left, right].into_iter().filter(|&node| node < rows).map(Below::Row));
            }
        }
    }
    found
}

/// The rows under a merge.
fn members(merges: &[Merge], rows: usize, merge: usize) -> Vec<usize> {
    let (mut members, mut nodes) = (Vec::new(), vec![rows + merge]);
    while let Some(node) = nodes.pop() {
        match node.checked_sub(rows) {
            None => members.push(node),
            Some(merge) => nodes.extend([merges[merge].left, merges[merge].right]),
        }
    }
    members
}
