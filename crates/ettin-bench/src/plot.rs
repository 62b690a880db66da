//! A picture of a run: tokens per second against model size and against length, as SVG.
//!
//! Both axes are logarithmic. A line is one workload in one setting; the dashed line of its colour is what the hardware
//! could do at best. Where nothing varies that lines could be drawn along, the records are bars.

use std::fmt::Write;

use crate::chart::labels;
use crate::record::Record;
use crate::table::{parameters, significant};

/// Colours that stay apart for colour-blind eyes (Okabe and Ito, 2008), without the yellow that white swallows.
const COLOURS: [&str; 7] = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#5B5B5B"];

const INK: &str = "#1F2933";
const FAINT: &str = "#6B7785";
const GRID: &str = "#E6EAEE";

/// Where a panel's axes are inside its own box, and the box.
const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 470.0;
const LEFT: f64 = 74.0;
const RIGHT: f64 = 176.0;
const TOP: f64 = 56.0;
const BOTTOM: f64 = 58.0;
/// Title and subtitle above the panels.
const HEAD: f64 = 90.0;

/// Lines with more neighbours than this go without their limits.
const MAX_DRAWN_LIMITS: usize = 4;

/// The picture; with no timed record it says so.
pub fn plot(records: &[Record]) -> String {
    let timed: Vec<&Record> = records.iter().filter(|record| record.tokens_per_second.is_some()).collect();
    let panels: Vec<Panel> = [by_size(&timed), by_length(&timed)].into_iter().flatten().collect();
    let bars_height = TOP + 30.0 * timed.len() as f64 + 24.0;
    let (width, height) = match panels.len() {
        0 => (WIDTH + 140.0, HEAD + bars_height),
        count => (WIDTH * count as f64, HEAD + HEIGHT),
    };
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" \
         height=\"{height}\" font-family=\"Inter, 'Segoe UI', 'Helvetica Neue', Arial, 'DejaVu Sans', sans-serif\">\n\
         <rect width=\"100%\" height=\"100%\" rx=\"10\" fill=\"#FFFFFF\"/>\n"
    );
    head(&mut svg, &timed, width);
    if panels.is_empty() {
        bars(&mut svg, &timed, width);
    }
    for (index, panel) in panels.iter().enumerate() {
        let _ = writeln!(svg, "<g transform=\"translate({} {HEAD})\">", WIDTH * index as f64);
        panel.draw(&mut svg);
        svg.push_str("</g>\n");
    }
    svg + "</svg>\n"
}

/// What holds for all of the picture.
fn head(svg: &mut String, records: &[&Record], width: f64) {
    let Some(first) = records.first() else {
        return text(svg, At(28.0, 40.0), "nothing was timed", &[("font-size", "22"), ("fill", INK)]);
    };
    let same = |part: fn(&Record) -> String| {
        let value = part(first);
        records.iter().all(|record| part(record) == value).then_some(value)
    };
    let setting = [
        same(|record| record.provenance.device_figures.clone().unwrap_or(record.provenance.machine.cpu.clone())),
        same(|record| record.setting.device.clone()),
        same(|record| record.setting.kernels.clone()),
        same(|record| record.setting.dtype.clone()),
        same(|record| {
            let threads = record.setting.threads;
            format!("{threads} thread{}", if threads == 1 { "" } else { "s" })
        }),
        same(|record| record.model.weights.clone())
            .filter(|weights| weights == "random")
            .map(|w| format!("{w} weights")),
        first.provenance.build.commit.as_ref().map(|commit| format!("commit {commit}")),
        first.provenance.date.split('T').next().map(str::to_owned),
    ];
    let title = [("font-size", "22"), ("font-weight", "600"), ("fill", INK)];
    text(svg, At(28.0, 40.0), "ettin-run: tokens per second", &title);
    for (index, words) in wrapped(setting.into_iter().flatten(), width - 56.0).iter().enumerate() {
        text(svg, At(28.0, 63.0 + 18.0 * index as f64), words, &[("font-size", "13"), ("fill", FAINT)]);
    }
}

/// Lines of so many pixels, broken between phrases.
fn wrapped(phrases: impl Iterator<Item = String>, width: f64) -> Vec<String> {
    // About the widest that a letter of this size is on average.
    let most = (width / 7.2) as usize;
    let mut lines: Vec<String> = Vec::new();
    for phrase in phrases {
        match lines.last_mut() {
            Some(line) if line.chars().count() + phrase.chars().count() + 3 <= most => {
                line.push_str(" · ");
                line.push_str(&phrase);
            }
            _ => lines.push(phrase),
        }
    }
    lines
}

/// One workload in one setting.
struct Series {
    label: String,
    /// From left to right.
    points: Vec<Point>,
}

#[derive(Clone, Copy)]
struct Point {
    x: f64,
    /// Mean and standard deviation.
    y: f64,
    spread: f64,
    limit: Option<f64>,
}

struct Panel {
    title: &'static str,
    series: Vec<Series>,
    /// Marks of the horizontal axis.
    ticks: Vec<(f64, String)>,
}

fn by_size(records: &[&Record]) -> Option<Panel> {
    let same = |record: &Record| (record.test.clone(), along(record));
    let panel = Panel::new("by model size, parameters", records, same, |record| record.model.parameters as f64)?;
    let tick = |x: f64| (x, parameters(x as u64).replace(' ', "").replace(".0M", "M"));
    Some(panel.with_ticks(tick))
}

fn by_length(records: &[&Record]) -> Option<Panel> {
    let reads = |record: &&&Record| record.test.starts_with("enc") || record.test.starts_with("pp");
    let records: Vec<&Record> = records.iter().filter(reads).copied().collect();
    let same = |record: &Record| {
        let kind = if record.test.starts_with("enc") { "enc" } else { "pp" };
        let (batch, depth) = (record.work.batch, record.work.depth);
        let depth = if depth > 0 { format!(" @ d{depth}") } else { String::new() };
        (format!("{} {kind} ×{batch}{depth}", short(record)), along(record))
    };
    let panel =
        Panel::new("by length, tokens", &records, same, |record| (record.work.length - record.work.depth) as f64)?;
    Some(panel.with_ticks(|x| (x, format!("{x}"))))
}

fn short(record: &Record) -> &str {
    record.model.name.strip_prefix("ettin-").unwrap_or(&record.model.name)
}

/// A model's name without its size: models of one family make a line.
fn family(record: &Record) -> &str {
    let name = short(record);
    match name.rsplit_once('-') {
        Some((family, size)) if size.starts_with(|digit: char| digit.is_ascii_digit()) => family,
        _ => name,
    }
}

/// What else is the same along a line; named where it tells lines apart.
type Along = [String; 5];

fn along(record: &Record) -> Along {
    let setting = &record.setting;
    [
        family(record).to_owned(),
        setting.device.clone(),
        setting.kernels.clone(),
        setting.dtype.clone(),
        format!("{}t", setting.threads),
    ]
}

impl Panel {
    /// Lines through the records that `key` calls the same; `None` if none has two places.
    fn new(
        title: &'static str,
        records: &[&Record],
        key: impl Fn(&Record) -> (String, Along),
        x: impl Fn(&Record) -> f64,
    ) -> Option<Self> {
        let mut groups: Vec<((String, Along), Vec<Point>)> = Vec::new();
        for record in records {
            let Some(rate) = record.tokens_per_second else { continue };
            let limit = record.trusted_limit().map(|limit| limit.tokens_per_second);
            let point = Point { x: x(record), y: rate.mean, spread: rate.sd, limit };
            let key = key(record);
            match groups.iter_mut().find(|(other, _)| *other == key) {
                Some((_, points)) => points.push(point),
                None => groups.push((key, vec![point])),
            }
        }
        for (_, points) in &mut groups {
            points.sort_by(|a, b| a.x.total_cmp(&b.x));
        }
        groups.retain(|(_, points)| points.iter().any(|point| point.x != points[0].x));
        // The rest is named where lines of one name differ in it.
        let differ =
            |i: &usize| groups.iter().any(|((a, x), _)| groups.iter().any(|((b, y), _)| a == b && x[*i] != y[*i]));
        let differs: Vec<usize> = (0..5).filter(differ).collect();
        let label =
            |(name, along): (String, Along)| differs.iter().fold(name, |name, &i| format!("{name} {}", along[i]));
        let series: Vec<Series> =
            groups.into_iter().map(|(key, points)| Series { label: label(key), points }).collect();
        (!series.is_empty()).then_some(Self { title, series, ticks: Vec::new() })
    }

    fn with_ticks(mut self, tick: impl Fn(f64) -> (f64, String)) -> Self {
        let mut places: Vec<f64> = self.points().map(|point| point.x).collect();
        places.sort_by(f64::total_cmp);
        places.dedup();
        self.ticks = places.into_iter().map(tick).collect();
        self
    }

    fn points(&self) -> impl Iterator<Item = Point> {
        self.series.iter().flat_map(|series| series.points.iter().copied())
    }

    fn draw(&self, svg: &mut String) {
        let limits = self.series.len() <= MAX_DRAWN_LIMITS;
        let heights = |point: Point| [Some(point.y), point.limit.filter(|_| limits)].into_iter().flatten();
        let x = Axis::new(self.points().map(|point| point.x), LEFT, WIDTH - RIGHT);
        let y = Axis::new(self.points().flat_map(heights), HEIGHT - BOTTOM, TOP);

        let title = [("font-size", "15"), ("font-weight", "600"), ("fill", INK)];
        text(svg, At(28.0, 34.0), self.title, &title);
        for tick in decades(y.low, y.high) {
            let place = y.at(tick);
            line(svg, At(LEFT, place), At(WIDTH - RIGHT, place), &[("stroke", GRID)]);
            let style = [("font-size", "12"), ("fill", FAINT), ("text-anchor", "end")];
            text(svg, At(LEFT - 10.0, place + 4.0), &thousands(tick), &style);
        }
        let mut free = f64::NEG_INFINITY;
        for (value, name) in &self.ticks {
            let place = x.at(*value);
            line(svg, At(place, HEIGHT - BOTTOM), At(place, HEIGHT - BOTTOM + 5.0), &[("stroke", FAINT)]);
            // A name has room if it does not run into the one before.
            let half = 4.0 * name.chars().count() as f64;
            if place - half > free {
                let style = [("font-size", "12"), ("fill", FAINT), ("text-anchor", "middle")];
                text(svg, At(place, HEIGHT - BOTTOM + 21.0), name, &style);
                free = place + half + 4.0;
            }
        }
        line(svg, At(LEFT, HEIGHT - BOTTOM), At(WIDTH - RIGHT, HEIGHT - BOTTOM), &[("stroke", FAINT)]);
        if limits && self.points().any(|point| point.limit.is_some()) {
            let (from, place) = (LEFT + 4.0, HEIGHT - 12.0);
            line(
                svg,
                At(from, place - 4.0),
                At(from + 28.0, place - 4.0),
                &[("stroke", FAINT), ("stroke-dasharray", "5 4")],
            );
            text(
                svg,
                At(from + 36.0, place),
                "limit of the hardware, measured in the same run",
                &[("font-size", "12"), ("fill", FAINT)],
            );
        }
        for (series, colour) in self.series.iter().zip(COLOURS.iter().cycle()) {
            if limits {
                let path = series.points.iter().filter_map(|point| Some(At(x.at(point.x), y.at(point.limit?))));
                let style = [("stroke-width", "1.5"), ("stroke-dasharray", "5 4"), ("stroke-opacity", "0.55")];
                polyline(svg, path, colour, &style);
            }
            let path = series.points.iter().map(|point| At(x.at(point.x), y.at(point.y)));
            polyline(svg, path, colour, &[("stroke-width", "2.5")]);
            for point in &series.points {
                let At(px, py) = At(x.at(point.x), y.at(point.y));
                // From a spread as large as the mean a bar would have no lower end.
                let (low, high) = ((point.y - point.spread).max(y.low), (point.y + point.spread).min(y.high));
                line(svg, At(px, y.at(low)), At(px, y.at(high)), &[("stroke", colour), ("stroke-opacity", "0.6")]);
                let _ = writeln!(
                    svg,
                    "<circle cx=\"{px:.1}\" cy=\"{py:.1}\" r=\"4.5\" fill=\"{colour}\" stroke=\"#FFFFFF\" \
                     stroke-width=\"1.5\"/>"
                );
            }
        }
        let ends = self.series.iter().filter_map(|series| Some(y.at(series.points.last()?.y)));
        for ((series, colour), place) in self.series.iter().zip(COLOURS.iter().cycle()).zip(apart(ends.collect())) {
            let Some(last) = series.points.last() else { continue };
            let (from, to) = (At(x.at(last.x) + 7.0, y.at(last.y)), At(WIDTH - RIGHT + 8.0, place));
            line(svg, from, to, &[("stroke", colour), ("stroke-opacity", "0.35")]);
            let style = [("font-size", "12.5"), ("font-weight", "600"), ("fill", colour)];
            text(svg, At(WIDTH - RIGHT + 12.0, place + 4.0), &series.label, &style);
        }
    }
}

/// A logarithmic axis.
struct Axis {
    low: f64,
    high: f64,
    from: f64,
    to: f64,
}

impl Axis {
    /// From the least of some positive values, at `from`, to the greatest, at `to`, with a little air.
    fn new(values: impl Iterator<Item = f64>, from: f64, to: f64) -> Self {
        let (low, high) =
            values.fold((f64::INFINITY, 0.0), |(low, high), value: f64| (value.min(low), value.max(high)));
        let low = low.max(f64::MIN_POSITIVE);
        let air = (high / low).powf(0.06).max(1.05);
        Self { low: low / air, high: high * air, from, to }
    }

    fn at(&self, value: f64) -> f64 {
        let share = (value / self.low).ln() / (self.high / self.low).ln();
        self.from + share.clamp(0.0, 1.0) * (self.to - self.from)
    }
}

/// Round values between two: powers of ten, with 2 and 5 where there is room.
fn decades(low: f64, high: f64) -> Vec<f64> {
    let steps: &[f64] = if high / low > 2e3 { &[1.0] } else { &[1.0, 2.0, 5.0] };
    let powers = low.log10().floor() as i32..=high.log10().ceil() as i32;
    let values = powers.flat_map(|power| steps.iter().map(move |step| step * 10f64.powi(power)));
    values.filter(|value| (low..=high).contains(value)).collect()
}

/// `1,000`, `20,000`, `0.5`.
fn thousands(value: f64) -> String {
    if value < 1.0 {
        return format!("{value}");
    }
    let digits = format!("{value:.0}");
    let mut grouped = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

/// Places for labels near where they belong, none of them over another.
fn apart(wanted: Vec<f64>) -> Vec<f64> {
    const GAP: f64 = 17.0;
    let mut order: Vec<usize> = (0..wanted.len()).collect();
    order.sort_by(|&a, &b| wanted[a].total_cmp(&wanted[b]));
    let mut places = wanted.clone();
    let mut free = f64::NEG_INFINITY;
    for &index in &order {
        places[index] = wanted[index].max(free);
        free = places[index] + GAP;
    }
    // Pushed down only; what ran over the lower edge moves back up.
    let mut most = HEIGHT - BOTTOM;
    for &index in order.iter().rev() {
        places[index] = places[index].min(most);
        most = places[index] - GAP;
    }
    places
}

/// Records as bars, where no lines can be drawn.
fn bars(svg: &mut String, records: &[&Record], width: f64) {
    const NAMES: f64 = 250.0;
    let most = records.iter().filter_map(|record| record.limit_or_rate()).fold(f64::MIN_POSITIVE, f64::max);
    let room = width - NAMES - 130.0;
    for (index, (record, label)) in records.iter().zip(labels(records)).enumerate() {
        let Some(rate) = record.tokens_per_second else { continue };
        let top = HEAD + 16.0 + 30.0 * index as f64;
        let style = [("font-size", "13"), ("fill", INK), ("text-anchor", "end")];
        text(svg, At(NAMES - 12.0, top + 15.0), &label, &style);
        let colour = COLOURS[0];
        if let Some(limit) = record.trusted_limit() {
            rectangle(svg, At(NAMES, top), room * limit.tokens_per_second / most, "#E3EEF6");
        }
        let length = room * rate.mean / most;
        rectangle(svg, At(NAMES, top), length, colour);
        let end = NAMES + room * record.limit_or_rate().unwrap_or(rate.mean) / most;
        text(svg, At(end + 8.0, top + 15.0), &significant(rate.mean), &[("font-size", "13"), ("fill", INK)]);
    }
    let note = "pale: limit of the hardware, measured in the same run";
    if records.iter().any(|record| record.limit.is_some()) {
        let place = At(NAMES, HEAD + 16.0 + 30.0 * records.len() as f64 + 20.0);
        text(svg, place, note, &[("font-size", "12"), ("fill", FAINT)]);
    }
}

impl Record {
    /// The greater of tokens per second and its limit.
    fn limit_or_rate(&self) -> Option<f64> {
        let rate = self.tokens_per_second?.mean;
        Some(self.trusted_limit().map_or(rate, |limit| limit.tokens_per_second.max(rate)))
    }
}

/// A point in the picture.
#[derive(Clone, Copy)]
struct At(f64, f64);

type Style<'a> = [(&'a str, &'a str)];

fn text(svg: &mut String, At(x, y): At, content: &str, style: &Style<'_>) {
    let _ = write!(svg, "<text x=\"{x:.1}\" y=\"{y:.1}\"");
    attributes(svg, style);
    let content = content.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    let _ = writeln!(svg, ">{content}</text>");
}

fn line(svg: &mut String, from: At, to: At, style: &Style<'_>) {
    let _ = write!(svg, "<line x1=\"{:.1}\" y1=\"{:.1}\" x2=\"{:.1}\" y2=\"{:.1}\"", from.0, from.1, to.0, to.1);
    attributes(svg, style);
    svg.push_str("/>\n");
}

fn polyline(svg: &mut String, points: impl Iterator<Item = At>, colour: &str, style: &Style<'_>) {
    let points: Vec<String> = points.map(|At(x, y)| format!("{x:.1},{y:.1}")).collect();
    let _ = write!(
        svg,
        "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-linejoin=\"round\"",
        points.join(" ")
    );
    attributes(svg, style);
    svg.push_str("/>\n");
}

fn rectangle(svg: &mut String, At(x, y): At, width: f64, colour: &str) {
    let _ = writeln!(
        svg,
        "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"20\" rx=\"3\" fill=\"{colour}\"/>"
    );
}

fn attributes(svg: &mut String, style: &Style<'_>) {
    for (name, value) in style {
        let _ = write!(svg, " {name}=\"{value}\"");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::samples::encoded;

    /// Where a circle is.
    fn place(circle: &str) -> (f64, f64) {
        let value = |name: &str| circle.split(name).nth(1).unwrap().split('"').nth(1).unwrap().parse().unwrap();
        (value("cx="), value("cy="))
    }

    fn count(text: &str, what: &str) -> usize {
        text.matches(what).count()
    }

    #[test]
    fn sizes_and_lengths_have_a_panel_each() {
        let mut records = Vec::new();
        for (model, rate) in [("encoder-17m", 40_000.0), ("encoder-32m", 20_000.0), ("encoder-150m", 4_000.0)] {
            for length in [32, 128, 512] {
                records.push(encoded(model, 8, length, rate / (1.0 + length as f64 / 1000.0)));
            }
        }
        let svg = plot(&records);
        assert!(svg.contains("by model size") && svg.contains("by length"));
        // Three workloads by size, three models by length, each with its limit and its three points.
        assert_eq!((count(&svg, "<polyline"), count(&svg, "<circle")), (12, 18));
        for label in ["enc 8×512", "encoder-150m enc ×8", ">16.8M<", ">512<", ">20,000<", "commit 0123456789ab"] {
            assert!(svg.contains(label), "{label} is not in\n{svg}");
        }
        assert_eq!(count(&svg, "<g "), count(&svg, "</g>"));
        assert!(!svg.contains("NaN") && !svg.contains("inf"));
    }

    #[test]
    fn families_and_settings_have_lines_of_their_own() {
        let mut records = Vec::new();
        for (model, rate) in [("encoder-17m", 4e4), ("encoder-32m", 2e4), ("decoder-17m", 3e4), ("decoder-32m", 1e4)] {
            records.push(encoded(model, 8, 128, rate));
        }
        let svg = plot(&records);
        assert_eq!(count(&svg, "<polyline"), 4, "two lines and two limits");
        assert!(svg.contains(">enc 8×128 encoder<") && svg.contains(">enc 8×128 decoder<"), "{svg}");
        records.truncate(2);
        let svg = plot(&records);
        assert!(svg.contains(">enc 8×128<"));
        // The smaller model is to the left and, being faster, above.
        let places: Vec<(f64, f64)> = svg.lines().filter(|line| line.starts_with("<circle")).map(place).collect();
        assert!(places[0].0 < places[1].0 && places[0].1 < places[1].1, "{places:?}");
        records.push(records[0].clone());
        records.push(records[1].clone());
        records[2].setting.dtype = "bf16".into();
        records[3].setting.dtype = "bf16".into();
        let svg = plot(&records);
        assert!(svg.contains(">enc 8×128 f32<") && svg.contains(">enc 8×128 bf16<"), "{svg}");
    }

    #[test]
    fn lines_of_text_are_broken_between_phrases() {
        let phrases = || ["aaaa", "bbbb", "cccc"].into_iter().map(str::to_owned);
        assert_eq!(wrapped(phrases(), 7.2 * 11.5), ["aaaa · bbbb", "cccc"]);
        assert_eq!(wrapped(phrases(), 1000.0), ["aaaa · bbbb · cccc"]);
        assert_eq!(wrapped(phrases(), 1.0).len(), 3);
    }

    #[test]
    fn one_place_makes_bars() {
        let mut one = encoded("encoder-17m", 8, 128, 40_000.0);
        one.model.name = "a<b>&c".into();
        let svg = plot(&[one, encoded("encoder-17m", 1, 128, 9_000.0)]);
        assert_eq!((count(&svg, "<polyline"), count(&svg, "<rect")), (0, 5));
        assert!(svg.contains("a&lt;b&gt;&amp;c") && !svg.contains("a<b>"));
        assert!(plot(&[]).contains("nothing was timed"));
    }

    #[test]
    fn higher_is_faster_and_right_is_larger() {
        let axis = Axis::new([10.0, 1000.0].into_iter(), 400.0, 50.0);
        assert!(axis.at(10.0) > axis.at(100.0) && axis.at(100.0) > axis.at(1000.0));
        assert!((axis.at(100.0) - 225.0).abs() < 1e-9);
        // A single value is in the middle, and not nowhere.
        assert!((Axis::new([5.0].into_iter(), 0.0, 100.0).at(5.0) - 50.0).abs() < 1e-9);
    }

    #[test]
    fn labels_keep_their_distance() {
        let places = apart(vec![100.0, 101.0, 60.0, 411.0, 412.0, 412.0]);
        let mut sorted = places.clone();
        sorted.sort_by(f64::total_cmp);
        assert!(sorted.windows(2).all(|pair| pair[1] - pair[0] > 16.9), "{places:?}");
        assert!(sorted.iter().all(|place| *place <= HEIGHT - BOTTOM));
        assert_eq!(places[2], 60.0);
        // Downwards, as long as there is room: at the top there is none above.
        assert_eq!(apart(vec![60.0, 60.0, 60.0]), [60.0, 77.0, 94.0]);
    }

    #[test]
    fn ticks_are_round() {
        assert_eq!(decades(30.0, 1500.0), [50.0, 100.0, 200.0, 500.0, 1000.0]);
        assert_eq!(decades(30.0, 1.5e6), [100.0, 1e3, 1e4, 1e5, 1e6]);
        assert_eq!(
            (thousands(1e6), thousands(500.0), thousands(0.5)),
            ("1,000,000".into(), "500".into(), "0.5".into())
        );
    }
}
