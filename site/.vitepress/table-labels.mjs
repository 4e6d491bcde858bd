// Tables for phones: each cell knows the heading of its column, so that the style sheet can show a row as a card. The roles are there since a
// style sheet that shows a table as something else takes its meaning from a screen reader.

/** A plug-in of markdown-it. */
export function tableLabels(markdown) {
  markdown.core.ruler.push('table-labels', ({ tokens }) => {
    let headings = []
    let column = 0
    tokens.forEach((token, index) => {
      if (token.type === 'table_open') {
        headings = []
        token.attrSet('role', 'table')
      }
      if (token.type === 'thead_open' || token.type === 'tbody_open') token.attrSet('role', 'rowgroup')
      if (token.type === 'tr_open') {
        column = 0
        token.attrSet('role', 'row')
      }
      if (token.type === 'th_open') {
        headings.push(textOf(tokens[index + 1]))
        token.attrSet('role', 'columnheader')
      }
      if (token.type === 'td_open') {
        const label = headings[column++]
        token.attrSet('role', 'cell')
        if (label) token.attrSet('data-label', label)
      }
    })
  })
}

function textOf({ children }) {
  return children.map(({ content }) => content).join('')
}
