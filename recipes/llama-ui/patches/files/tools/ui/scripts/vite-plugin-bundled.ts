import { writeFileSync } from 'node:fs';
import type { Plugin } from 'vite';

const STYLES_AND_FONTS = /\.(?:css|scss|sass|woff2?|ttf|otf|eot|svg|png)$/;

/**
 * Write the files of node_modules that the browser's bundle is made of to LLAMA_UI_BUNDLED, one per line: modules that
 * are left after tree shaking, and the styles, fonts and pictures that were read. The server's bundle is not shipped.
 */
export function bundledPlugin(): Plugin {
	const list = process.env.LLAMA_UI_BUNDLED;
	let ssr = false;

	return {
		apply: 'build',
		configResolved(config) {
			ssr = !!config.build.ssr;
		},
		generateBundle(_, bundle) {
			if (!list || ssr || this.environment?.name === 'ssr') return;

			const files = [...this.getWatchFiles()].filter((file) => STYLES_AND_FONTS.test(file.split('?')[0]));

			for (const chunk of Object.values(bundle)) {
				if (chunk.type !== 'chunk') continue;

				files.push(
					...Object.entries(chunk.modules)
						.filter(([, module]) => module.renderedLength > 0)
						.map(([id]) => id)
				);
			}

			const plain = files.map((file) => file.replace(/^\0/, '').split('?')[0]);

			writeFileSync(list, [...new Set(plain)].sort().map((file) => `${file}\n`).join(''));
		},
		name: 'mmojo:bundled'
	};
}
