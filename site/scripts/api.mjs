// Makes the API reference: a group of pages for each entry of package.json, from the docstrings in src/, into pages/api.
//
//   node scripts/api.mjs [--missing]
//
// --missing lists what is public and has no docstring, and exits with 1 if there is any. TypeDoc has a TypeScript of its own here: it
// needs the compiler's API of TypeScript 5.
import { readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { Application, Comment, Converter, LogLevel, ReflectionKind } from 'typedoc'

const site = join(dirname(fileURLToPath(import.meta.url)), '..')
const root = join(site, '..')
const { name: packageName, exports } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'))
const out = join(site, 'pages', 'api')
const listsMissing = process.argv.includes('--missing')

/** The source of each entry that has types, with the name by which it is imported. */
const entries = Object.entries(exports).flatMap(([entry, { types }]) =>
  types
    ? [
        {
          source: join(root, types.replace('./dist/', 'src/').replace(/\.d\.ts$/, '.ts')),
          name: packageName + entry.slice(1),
        },
      ]
    : [],
)

const app = await Application.bootstrapWithPlugins({
  plugin: ['typedoc-plugin-markdown'],
  entryPoints: entries.map(({ source }) => source),
  tsconfig: join(site, 'tsconfig.json'),
  // The project is checked by its own compiler.
  skipErrorChecking: true,
  basePath: root,
  disableSources: true,
  excludeInternal: true,
  excludePrivate: true,
  excludeExternals: true,
  name: 'API reference',
  readme: 'none',
  hideGenerator: true,
  githubPages: false,
  logLevel: listsMissing ? LogLevel.Warn : LogLevel.Error,
  validation: { notExported: false, invalidLink: false, notDocumented: listsMissing },
  requiredToBeDocumented: [
    'Class',
    'Interface',
    'Function',
    'TypeAlias',
    'Variable',
    'Property',
    'Method',
    'Accessor',
  ],
  out: out,
  cleanOutputDir: true,
  // Of typedoc-plugin-markdown:
  router: 'member',
  entryFileName: 'index',
  hidePageHeader: true,
  hideBreadcrumbs: true,
  useCodeBlocks: true,
  expandObjects: false,
  expandParameters: true,
  parametersFormat: 'table',
  interfacePropertiesFormat: 'table',
  classPropertiesFormat: 'table',
  typeAliasPropertiesFormat: 'table',
  enumMembersFormat: 'table',
  propertyMembersFormat: 'table',
  indexFormat: 'table',
  sanitizeComments: true,
})

// A module is called as it is imported, not as its file.
app.converter.on(Converter.EVENT_RESOLVE_BEGIN, ({ project }) => {
  for (const child of project.getChildrenByKind(ReflectionKind.Module)) {
    const source = child.sources?.[0]?.fullFileName ?? app.converter.getSource?.(child)
    const file = project.getSymbolIdFromReflection(child)?.fileName ?? source
    const entry = entries.find(({ source }) => source === file)
    if (entry === undefined) throw new Error(`no entry for ${child.name} (${file})`)
    child.name = entry.name
    child.comment = new Comment([{ kind: 'text', text: headOf(entry.source) }])
  }
})

/** The comment at the head of a file, without what the heading says already. */
function headOf(source) {
  const [, text = ''] = /^\/\*\*(.*?)\*\//s.exec(readFileSync(source, 'utf8')) ?? []
  return text
    .replaceAll(/^ *\* ?/gm, '')
    .replace(/^\s*drizzle-keystore[\w/-]*: (.)/, (_, first) => first.toUpperCase())
    .replaceAll(/\s*Exported as\s+`[^`]+`\./g, '')
    .replaceAll(/\{@link (\w+)\}/g, '`$1`')
    .trim()
}

const project = await app.convert()
if (project === undefined) process.exit(1)
if (listsMissing) {
  app.validate(project)
  process.exit(app.logger.hasWarnings() ? 1 : 0)
}
rmSync(out, { recursive: true, force: true })
await app.generateOutputs(project)
if (app.logger.hasErrors()) process.exit(1)
for (const file of readdirSync(out, { recursive: true, encoding: 'utf8' }).filter((name) =>
  name.endsWith('.md'),
)) {
  const text = readFileSync(join(out, file), 'utf8')
  // The compiler names a type that is a template literal by what it is.
  writeFileSync(
    join(out, file),
    text.replaceAll(
      /`` ?`v\$\{string & \{ \[tokenBrand\]: true \}\}` ?``|`v\$\{string & \{ \[tokenBrand\]: true \}\}`/g,
      (found) => (found.startsWith('``') ? '`Token`' : 'Token'),
    ),
  )
}
