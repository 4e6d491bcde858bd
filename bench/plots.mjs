// Results as SVG: one document a part, its groups side by side, bars on a logarithmic scale.
import * as echarts from 'echarts'

const COLUMNS = 2
const WIDTH = 1080
const BAR_HEIGHT = 22
const TITLE_HEIGHT = 40
const AXIS_HEIGHT = 30
const OURS = '#2f6fdb'
const THEIRS = '#b5bcc7'

/**
 * @param {{ title: string, bars: { name: string, value: number, isOurs: boolean }[] }[]} groups
 * @param {string} unit
 * @returns {string} an SVG document
 */
export function barPlots(groups, unit) {
  const most = Math.max(...groups.map(({ bars }) => bars.length))
  const groupHeight = TITLE_HEIGHT + most * BAR_HEIGHT + AXIS_HEIGHT
  const width = WIDTH / COLUMNS
  const places = groups.map((_, index) => ({
    left: (index % COLUMNS) * width,
    top: Math.floor(index / COLUMNS) * groupHeight,
  }))
  const height = Math.ceil(groups.length / COLUMNS) * groupHeight
  const chart = echarts.init(null, null, { renderer: 'svg', ssr: true, width: WIDTH, height })
  chart.setOption({
    animation: false,
    backgroundColor: '#ffffff',
    title: groups.map(({ title }, index) => ({
      text: `${title}, ${unit}`,
      left: places[index].left + 10,
      top: places[index].top + 8,
      textStyle: { fontSize: 14 },
    })),
    grid: groups.map(({ bars }, index) => ({
      // Without a canvas the widths of labels are guessed, too small.
      left: places[index].left + 45,
      top: places[index].top + TITLE_HEIGHT,
      width: width - 115,
      height: bars.length * BAR_HEIGHT + AXIS_HEIGHT - 10,
      containLabel: true,
    })),
    xAxis: groups.map((_, gridIndex) => ({
      gridIndex,
      type: 'log',
      splitLine: { lineStyle: { color: '#eeeeee' } },
    })),
    // The first bar on top.
    yAxis: groups.map(({ bars }, gridIndex) => ({
      gridIndex,
      type: 'category',
      inverse: true,
      data: bars.map(({ name }) => name),
    })),
    series: groups.map(({ bars }, index) => ({
      type: 'bar',
      xAxisIndex: index,
      yAxisIndex: index,
      label: { show: true, position: 'right', formatter: ({ value }) => figure(value) },
      data: bars.map(({ value, isOurs }) => ({ value, itemStyle: { color: isOurs ? OURS : THEIRS } })),
    })),
  })
  const svg = chart.renderToSVGString()
  chart.dispose()
  return svg
}

function figure(value) {
  return value >= 100 ? Math.round(value).toLocaleString('en') : String(Number(value.toPrecision(3)))
}
