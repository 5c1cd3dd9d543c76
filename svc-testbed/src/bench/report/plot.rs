//! One section's numbers as pictures: SVG, to be put into a page as it is. Bars for paths and programs, a line where the subjects
//! are sizes.

use plotters::{coord::Shift, prelude::*};

use super::{
    super::results::{Section, Series},
    number::show,
};

type PlotResult = Result<(), DrawingAreaErrorKind<std::io::Error>>;

const COLOURS: [RGBColor; 8] = [
    RGBColor(110, 110, 110),
    RGBColor(31, 119, 180),
    RGBColor(23, 190, 207),
    RGBColor(44, 160, 44),
    RGBColor(152, 193, 80),
    RGBColor(214, 110, 39),
    RGBColor(180, 40, 40),
    RGBColor(148, 103, 189),
];
const WIDTH: u32 = 960;
const FONT: &str = "sans-serif";

/// What one bar says.
struct Bar<'a> {
    group: usize,
    subject: usize,
    series: &'a Series,
    low: f64,
    middle: f64,
    high: f64,
}

/// A picture for each metric of the section.
pub fn section(section: &Section) -> Vec<String> {
    let mut metrics: Vec<&str> = section.series.iter().map(|series| series.metric.as_str()).collect();
    metrics.dedup();
    metrics.sort_unstable();
    metrics.dedup();
    let pictures = metrics.into_iter().flat_map(|metric| {
        let of_metric: Vec<&Series> = section.series.iter().filter(|series| series.metric == metric).collect();
        let (sizes, others): (Vec<&Series>, Vec<&Series>) =
            of_metric.into_iter().partition(|series| series.x.is_some());
        [draw_bars(metric, &others), draw_line(metric, &sizes)]
    });
    pictures.flatten().collect()
}

/// Bars in groups, with a whisker from the least to the greatest sample. Ratios to the direct path where there are any.
fn draw_bars(metric: &str, series: &[&Series]) -> Option<String> {
    let relative = series.iter().any(|series| !series.ratios.is_empty());
    let names = |name: fn(&Series) -> &str| {
        let mut names: Vec<&str> = Vec::new();
        for series in series {
            if !names.contains(&name(series)) {
                names.push(name(series));
            }
        }
        names
    };
    let (groups, subjects) = (names(|series| &series.group), names(|series| &series.subject));
    let bars: Vec<Bar<'_>> = series
        .iter()
        .filter_map(|series| {
            let summary = if relative { series.ratio()? } else { series.summary()? };
            Some(Bar {
                group: groups.iter().position(|group| *group == series.group)?,
                subject: subjects.iter().position(|subject| *subject == series.subject)?,
                series,
                low: summary.min,
                middle: summary.median,
                high: summary.max,
            })
        })
        .collect();
    let unit = &bars.first()?.series.unit;
    let title = if relative { format!("{metric}, direct pod IP = 1") } else { format!("{metric}, {unit}") };
    let mut picture = String::new();
    let height = 70 + 34 * groups.len() as u32 + 20 * bars.len() as u32;
    {
        let area = SVGBackend::with_string(&mut picture, (WIDTH, height)).into_drawing_area();
        bars_into(&area, &title, relative, &groups, &subjects, &bars).ok()?;
    }
    Some(picture)
}

fn bars_into(
    area: &DrawingArea<SVGBackend<'_>, Shift>,
    title: &str,
    relative: bool,
    groups: &[&str],
    subjects: &[&str],
    bars: &[Bar<'_>],
) -> PlotResult {
    area.fill(&WHITE)?;
    // A single wild sample must not make the rest unreadable.
    let middle = bars.iter().map(|bar| bar.middle).fold(0.0, f64::max);
    let right = bars.iter().map(|bar| bar.high).fold(middle, f64::max).min(middle * 1.6) * 1.12;
    let rows = bars.len() as f64 + groups.len() as f64;
    let mut chart = ChartBuilder::on(area)
        .caption(title, (FONT, 17))
        .margin(8)
        .x_label_area_size(26)
        .build_cartesian_2d(0.0..right.max(f64::MIN_POSITIVE), rows..0.0)?;
    chart.configure_mesh().disable_y_mesh().disable_y_axis().x_labels(10).light_line_style(WHITE).draw()?;
    let mut row = 0.0;
    for (number, group) in groups.iter().enumerate() {
        let heading = if group.is_empty() { title } else { group };
        chart.draw_series([Text::new(
            heading.to_owned(),
            (right * 0.002, row + 0.35),
            (FONT, 14).into_font().style(FontStyle::Bold),
        )])?;
        row += 1.0;
        for bar in bars.iter().filter(|bar| bar.group == number) {
            let colour = COLOURS[if subjects.len() > COLOURS.len() { 1 } else { bar.subject }];
            let centre = row + 0.5;
            chart.draw_series([Rectangle::new(
                [(0.0, row + 0.12), (bar.middle.max(0.0), row + 0.88)],
                colour.mix(0.75).filled(),
            )])?;
            let whisker = [(bar.low.max(0.0), centre), (bar.high.min(right), centre)];
            chart.draw_series([PathElement::new(whisker, BLACK.stroke_width(1))])?;
            let value = show(bar.series.summary().map_or(f64::NAN, |summary| summary.median));
            let label = match relative {
                true => format!("{}  {:.2} ({value} {})", bar.series.subject, bar.middle, bar.series.unit),
                false => format!("{}  {value} {}", bar.series.subject, bar.series.unit),
            };
            chart.draw_series([Text::new(label, (right * 0.006, row + 0.25), (FONT, 13))])?;
            row += 1.0;
        }
    }
    if relative {
        chart.draw_series([PathElement::new([(1.0, 0.0), (1.0, rows)], BLACK.mix(0.6).stroke_width(1))])?;
    }
    area.present()
}

fn draw_line(metric: &str, series: &[&Series]) -> Option<String> {
    let points: Vec<(f64, f64, f64, f64, &str)> = series
        .iter()
        .filter_map(|series| {
            let summary = series.summary()?;
            Some((series.x?.max(1.0), summary.median, summary.min, summary.max, series.group.as_str()))
        })
        .collect();
    let unit = &series.first()?.unit;
    let mut picture = String::new();
    {
        let area = SVGBackend::with_string(&mut picture, (WIDTH, 360)).into_drawing_area();
        line_into(&area, &format!("{metric}, {unit}"), &points).ok()?;
    }
    Some(picture)
}

fn line_into(
    area: &DrawingArea<SVGBackend<'_>, Shift>,
    title: &str,
    points: &[(f64, f64, f64, f64, &str)],
) -> PlotResult {
    area.fill(&WHITE)?;
    let right = points.iter().map(|point| point.0).fold(1.0, f64::max) * 1.2;
    let left = points.iter().map(|point| point.0).fold(right, f64::min) * 0.8;
    let middle = points.iter().map(|point| point.1).fold(0.0, f64::max);
    let top = points.iter().map(|point| point.3).fold(middle, f64::max).min(middle * 2.0) * 1.1;
    let mut chart = ChartBuilder::on(area)
        .caption(title, (FONT, 17))
        .margin(10)
        .x_label_area_size(30)
        .y_label_area_size(64)
        .build_cartesian_2d((left..right).log_scale(), 0.0..top.max(f64::MIN_POSITIVE))?;
    let whole = |value: &f64| format!("{value:.0}");
    chart.configure_mesh().x_label_formatter(&whole).y_label_formatter(&|value| show(*value)).draw()?;
    let mut groups: Vec<&str> = points.iter().map(|point| point.4).collect();
    groups.dedup();
    for (number, group) in groups.into_iter().enumerate() {
        let colour = COLOURS[(number + 1) % COLOURS.len()];
        let of_group: Vec<_> = points.iter().filter(|point| point.4 == group).collect();
        chart
            .draw_series(LineSeries::new(of_group.iter().map(|point| (point.0, point.1)), colour.stroke_width(2)))?
            .label(group)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(2)));
        chart.draw_series(of_group.iter().map(|point| Circle::new((point.0, point.1), 4, colour.filled())))?;
        chart.draw_series(of_group.iter().map(|point| {
            PathElement::new([(point.0, point.2), (point.0, point.3.min(top))], colour.stroke_width(1))
        }))?;
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .background_style(WHITE.mix(0.8))
        .label_font((FONT, 13))
        .draw()?;
    area.present()
}
