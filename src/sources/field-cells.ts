/**
 * The registered fields of JSON columns as values of the sweep: each field is a value of its own. What is compared and replaced in the database
 * is the whole text that the column holds, in which nothing but the fields changes.
 */
import { invalidArgument } from '../errors.js'
import { type ContextOf, contextMaker } from '../format/context.js'
import { type FieldPath, placeName } from './field-path.js'
import { fieldsIn, type Span, withValues } from './json-text.js'
import { type ValueCell, type ValueChange, valueRefKey } from './value-source.js'

/** The name of the part of a field's context that says where in its JSON it is. */
export const FIELD_CONTEXT = 'path'

/** Where in the database the value of a field is. */
interface FieldOrigin {
  readonly column: string
  /** What the column holds. */
  readonly text: string
  readonly span: Span
}

/** A change of what a column holds, and the changes of values that it is made of. */
interface WholeChange {
  readonly change: ValueChange
  readonly parts: readonly ValueChange[]
}

/** The fields of the last two pages of rows. */
export class FieldCells {
  #origins = new Map<string, FieldOrigin>()
  /** Those of the page before, which may still have to be written. */
  #before = new Map<string, FieldOrigin>()

  /** Forgets the fields of all pages but the last. */
  beginPage(): void {
    this.#before = this.#origins
    this.#origins = new Map()
  }

  /**
   * @param whole the column's own cell
   * @param context of the column: that of each field has its place in addition
   */
  of<Row>(whole: ValueCell<Row>, paths: readonly FieldPath[], context: ContextOf<Row>): ValueCell<Row>[] {
    const { key, column, value: text } = whole
    // What is no text is reported as it is.
    if (typeof text !== 'string') return [{ ...whole, context }]
    if (!isJson(text)) {
      const defect = whole.defect ?? invalidArgument('it is no JSON: its fields cannot be found')
      return [{ ...whole, context, defect }]
    }
    const contextOf = contextMaker(context)
    const names = new Map<string, number>()
    return fieldsIn(text, paths).map(({ place, span }) => {
      const path = placeName(place)
      const name = uniqueName(`${column}.${path}`, names)
      this.#origins.set(valueRefKey({ key, column: name }), { column, text, span })
      const value = JSON.parse(text.slice(span.start, span.end)) as ValueCell['value']
      return {
        ...whole,
        column: name,
        container: column,
        value,
        context: (row: Row) => ({ ...contextOf(row), [FIELD_CONTEXT]: path }),
      }
    })
  }

  /** Changes of fields as changes of what their columns hold, one for each text; other changes as they are. */
  wholeChanges(changes: readonly ValueChange[]): WholeChange[] {
    const others: WholeChange[] = []
    const texts = new Map<string, { readonly change: ValueChange; readonly origin: FieldOrigin }[]>()
    for (const change of changes) {
      const name = valueRefKey(change)
      const origin = this.#origins.get(name) ?? this.#before.get(name)
      if (origin === undefined) {
        others.push({ change, parts: [change] })
        continue
      }
      const place = valueRefKey({ key: change.key, column: origin.column })
      const parts = texts.get(place) ?? []
      parts.push({ change, origin })
      texts.set(place, parts)
    }
    return [...others, ...Array.from(texts.values(), wholeChange)]
  }
}

function wholeChange(
  fields: readonly { readonly change: ValueChange; readonly origin: FieldOrigin }[],
): WholeChange {
  const [{ change, origin }] = fields as [(typeof fields)[number]]
  const { column, text } = origin
  const values = fields
    .map(({ change, origin }) => ({ span: origin.span, value: change.to }))
    .sort((a, b) => a.span.start - b.span.start)
  return {
    change: { ...change, column, from: text, to: withValues(text, values) },
    parts: fields.map(({ change }) => change),
  }
}

export function isJson(text: string): boolean {
  try {
    JSON.parse(text)
    return true
  } catch {
    return false
  }
}

/** A name for reports: arrays have several fields of one place, and so have objects with several properties of one name. */
function uniqueName(name: string, taken: Map<string, number>): string {
  let count = taken.get(name) ?? 0
  let unique = name
  // A property may itself be called so.
  do {
    count += 1
    if (count > 1) unique = `${name} (${count})`
  } while (unique !== name && taken.has(unique))
  taken.set(name, count)
  if (unique !== name) taken.set(unique, 1)
  return unique
}

/** The name that all fields of one path share. */
export function pathName(name: string): string {
  return name.replace(/ \(\d+\)$/, '')
}
