//! MaxSim: against f64; alone and together; every way to keep documents; what is empty and what is no number.

mod common;

use common::{Random, bits, relative_error};
use ettin_kernels::{
    DocumentVectors, EMPTY_DOCUMENT_SCORE, Isa, MaxSimQueries, PackedActivations, PackedWeight, Scheme, Store, Team,
    gemm, max_sim,
    testing::{each_isa, tolerance},
};

/// Where items of these lengths begin, and the end of the last.
fn offsets(lengths: &[usize]) -> Vec<usize> {
    let mut offsets = vec![0];
    for length in lengths {
        offsets.push(offsets.last().unwrap() + length);
    }
    offsets
}

fn vectors(random: &mut Random, lengths: &[usize], size: usize) -> Vec<f32> {
    random.vector(lengths.iter().sum::<usize>() * size)
}

struct Case<'a> {
    isa: Isa,
    scheme: Scheme,
    size: usize,
    /// Vectors of each query.
    queries: &'a [usize],
    /// Vectors of each document.
    documents: &'a [usize],
}

impl Case<'_> {
    fn scores(&self, team: &Team, queries: &[f32], documents: DocumentVectors<'_>) -> Vec<f32> {
        let Self { isa, scheme, size, .. } = *self;
        let packed = MaxSimQueries::pack(isa, scheme, team, queries, size, &offsets(self.queries));
        let mut out = vec![f32::NAN; self.documents.len() * self.queries.len()];
        max_sim(team, &packed, documents, &offsets(self.documents), &mut out);
        out
    }

    /// `[documents, queries]` in f64.
    fn exact(&self, queries: &[f32], documents: &[f32]) -> Vec<f64> {
        let (query_at, document_at) = (offsets(self.queries), offsets(self.documents));
        let row = |x: &[f32], row: usize| x[row * self.size..][..self.size].iter().map(|&x| f64::from(x)).collect();
        let score = |query: usize, document: usize| -> f64 {
            if self.documents[document] == 0 {
                return f64::from(EMPTY_DOCUMENT_SCORE);
            }
            let best = |q: usize| {
                let q: Vec<f64> = row(queries, q);
                (document_at[document]..document_at[document + 1]).fold(f64::NEG_INFINITY, |best, d| {
                    let d: Vec<f64> = row(documents, d);
                    best.max(q.iter().zip(&d).map(|(q, d)| q * d).sum())
                })
            };
            (query_at[query]..query_at[query + 1]).map(best).sum()
        };
        (0..self.documents.len())
            .flat_map(|document| (0..self.queries.len()).map(move |query| (query, document)))
            .map(|(query, document)| score(query, document))
            .collect()
    }
}

#[test]
fn scores_agree_with_f64() {
    let team = Team::with_threads(3).unwrap();
    each_isa(|isa| {
        let mut random = Random::new(41);
        for scheme in [Scheme::F32, Scheme::Bf16] {
            let mut worst = 0.0f64;
            for size in [1, 15, 16, 17, 48, 128, 300] {
                for queries in [&[1][..], &[2, 0, 15], &[16], &[17, 3], &[32], &[33, 40]] {
                    let documents = [1, 5, 13, 14, 15, 1, 29, 64, 2];
                    let case = Case { isa, scheme, size, queries, documents: &documents };
                    let (q, d) = (vectors(&mut random, queries, size), vectors(&mut random, &documents, size));
                    let got = case.scores(&team, &q, DocumentVectors::F32(&d));
                    let stored = |x: &[f32]| match scheme {
                        Scheme::F32 => x.to_vec(),
                        _ => rounded_bf16(x),
                    };
                    let error = relative_error(&got, &case.exact(&stored(&q), &stored(&d)));
                    worst = worst.max(error);
                    let bound = tolerance(isa, scheme);
                    assert!(error <= bound, "{isa} {scheme} size {size} {queries:?}: {error:e}, bound {bound:e}");
                }
            }
            println!("{isa} {scheme}: {worst:e}");
        }
    });
}

fn rounded_bf16(x: &[f32]) -> Vec<f32> {
    x.iter().map(|&x| half::bf16::from_f32(x).to_f32()).collect()
}

#[test]
fn a_score_is_the_same_alone_and_in_any_company() {
    let teams = [Team::single(), Team::with_threads(3).unwrap()];
    let queries = [3, 32, 0, 11];
    // Long ones, too, that fill a task's chunk by themselves.
    let documents = [7, 0, 128, 1, 300, 64, 2, 900, 31, 0, 5];
    each_isa(|isa| {
        let mut random = Random::new(42);
        for scheme in Scheme::ALL {
            for size in [64, 128] {
                let (q, d) = (vectors(&mut random, &queries, size), vectors(&mut random, &documents, size));
                let whole = Case { isa, scheme, size, queries: &queries, documents: &documents };
                let together = whole.scores(&teams[0], &q, DocumentVectors::F32(&d));
                let in_parallel = whole.scores(&teams[1], &q, DocumentVectors::F32(&d));
                assert_eq!(bits(&in_parallel), bits(&together), "{isa} {scheme}: threads");
                let (query_at, document_at) = (offsets(&queries), offsets(&documents));
                for (i, &length) in documents.iter().enumerate() {
                    for (j, &query) in queries.iter().enumerate() {
                        let alone = Case { isa, scheme, size, queries: &[query], documents: &[length] };
                        let q = &q[query_at[j] * size..query_at[j + 1] * size];
                        let d = &d[document_at[i] * size..document_at[i + 1] * size];
                        let alone = alone.scores(&teams[0], q, DocumentVectors::F32(d))[0];
                        let company = together[i * queries.len() + j];
                        assert_eq!(alone.to_bits(), company.to_bits(), "{isa} {scheme} document {i} query {j}");
                    }
                }
            }
        }
    });
}

#[test]
fn fused_instruction_sets_agree_bit_for_bit() {
    let mut random = Random::new(43);
    let (queries, documents, size) = ([32], [40, 3, 77], 96);
    let (q, d) = (vectors(&mut random, &queries, size), vectors(&mut random, &documents, size));
    let mut first = None;
    each_isa(|isa| {
        if isa.has_fma() {
            let case = Case { isa, scheme: Scheme::F32, size, queries: &queries, documents: &documents };
            let got = bits(&case.scores(&Team::single(), &q, DocumentVectors::F32(&d)));
            assert_eq!(*first.get_or_insert(got.clone()), got, "{isa}");
        }
    });
}

#[test]
fn documents_that_are_kept_in_fewer_bits_score_as_the_numbers_that_they_stand_for() {
    let mut random = Random::new(44);
    let (queries, documents, size) = ([5, 32], [9, 0, 130, 14], 37);
    let (q, d) = (vectors(&mut random, &queries, size), vectors(&mut random, &documents, size));
    let halves: Vec<u16> = d.iter().map(|&x| half::bf16::from_f32(x).to_bits()).collect();
    let codes: Vec<i8> = d.iter().map(|&x| (x * 127.0) as i8).collect();
    let scales: Vec<f32> = random.vector(d.len() / size).iter().map(|x| 0.01 + x.abs()).collect();
    let widened: Vec<f32> = codes.iter().enumerate().map(|(i, &code)| f32::from(code) * scales[i / size]).collect();
    each_isa(|isa| {
        for scheme in [Scheme::F32, Scheme::Bf16] {
            let case = Case { isa, scheme, size, queries: &queries, documents: &documents };
            let score = |documents| bits(&case.scores(&Team::single(), &q, documents));
            let plain = rounded_bf16(&d);
            let want = score(DocumentVectors::F32(&plain));
            assert_eq!(score(DocumentVectors::Bf16(&halves)), want, "{isa} {scheme}");
            let bytes = DocumentVectors::Int8 { codes: &codes, scales: &scales };
            assert_eq!(score(bytes), score(DocumentVectors::F32(&widened)), "{isa} {scheme}");
        }
    });
}

#[test]
fn nothing_but_a_documents_own_vectors_can_be_its_best() {
    each_isa(|isa| {
        // Every product is negative, so that a row of padding would win.
        let documents = [1, 3, 0, 2];
        let case = Case { isa, scheme: Scheme::F32, size: 3, queries: &[2], documents: &documents };
        let got = case.scores(&Team::single(), &[1.0; 6], DocumentVectors::F32(&[-1.0; 18]));
        assert_eq!(got, [-6.0, -6.0, EMPTY_DOCUMENT_SCORE, -6.0], "{isa}");
    });
}

#[test]
fn what_is_no_number_stays_in_its_document() {
    each_isa(|isa| {
        for broken in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for place in 0..4 {
                let documents = [3, 4, 3];
                let mut d = vec![0.5; 10 * 20];
                d[(3 + place) * 20] = broken;
                let case = Case { isa, scheme: Scheme::F32, size: 20, queries: &[2], documents: &documents };
                let got = case.scores(&Team::single(), &[1.0; 40], DocumentVectors::F32(&d));
                assert!(got[1].is_nan() && got[0] == 20.0 && got[2] == 20.0, "{isa} {broken}: {got:?}");
            }
        }
    });
}

#[test]
fn nothing_at_all_is_no_fault() {
    each_isa(|isa| {
        let scores = |queries: &[usize], documents: &[usize]| {
            Case { isa, scheme: Scheme::F32, size: 4, queries, documents }.scores(
                &Team::single(),
                &vec![1.0; queries.iter().sum::<usize>() * 4],
                DocumentVectors::F32(&vec![1.0; documents.iter().sum::<usize>() * 4]),
            )
        };
        assert_eq!(scores(&[], &[1, 2]), [0.0; 0]);
        assert_eq!(scores(&[2], &[]), [0.0; 0]);
        assert_eq!(scores(&[2], &[0, 0]), [EMPTY_DOCUMENT_SCORE; 2]);
        assert_eq!(scores(&[0], &[2, 0]), [0.0, EMPTY_DOCUMENT_SCORE]);
    });
}

#[test]
#[should_panic(expected = "offsets that do not ascend")]
fn offsets_that_lead_out_are_refused() {
    let team = Team::single();
    let query = MaxSimQueries::pack(Isa::Portable, Scheme::F32, &team, &[1.0; 4], 4, &[0, 1]);
    max_sim(&team, &query, DocumentVectors::F32(&[1.0; 8]), &[0, 3], &mut [0.0]);
}

/// f32 is multiplied by a kernel of its own up to a length, and by that of products beyond: one order of additions.
#[test]
fn products_in_f32_are_those_of_the_matrix_product() {
    let team = Team::single();
    each_isa(|isa| {
        let mut random = Random::new(45);
        for size in [1, 16, 50, 128, 255, 256, 257] {
            let (queries, documents) = ([1; 37], [1; 41]);
            let (q, d) = (vectors(&mut random, &queries, size), vectors(&mut random, &documents, size));
            let case = Case { isa, scheme: Scheme::F32, size, queries: &queries, documents: &documents };
            // Of one vector each: a score is a product.
            let got = case.scores(&team, &q, DocumentVectors::F32(&d));
            let fill = |row: usize, out: &mut [f32]| out.copy_from_slice(&q[row * size..(row + 1) * size]);
            let weight = PackedWeight::pack(isa, Scheme::F32, &team, queries.len(), size, &fill);
            let mut products = vec![0.0; documents.len() * queries.len()];
            let mut rows = PackedActivations::default();
            rows.encode(&team, &weight, &d);
            gemm(&team, &rows, &weight, None, Store::Write, &mut products);
            assert_eq!(bits(&got), bits(&products), "{isa} {size}");
        }
    });
}
